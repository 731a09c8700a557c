"""The critic's loss, and how much of the returns it explains."""
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlft.ops import masked


def half_square(
    values: Float[Array, '*S'], behaviour_values: Float[Array, '*S'],
    returns: Float[Array, '*S'], *, clip: float | None
) -> Float[Array, '*S']:
  """(value - return)^2 / 2, no better than with the value held in its clip.

  The clipped value stays within `clip` (in units of the return) of the value
  at sampling time; the larger of the two errors counts (arXiv 2005.12729,
  section 3). So a value that has run past its clip towards the return gets no
  gradient, and one that has run past it away from the return still does.
  `clip=None` leaves the plain half square.
  """
  error = jnp.square(values - returns)
  if clip is not None:
    move = jnp.clip(values - behaviour_values, -clip, clip)
    error = jnp.maximum(error, jnp.square(behaviour_values + move - returns))
  return 0.5 * error


def explained_variance(
    values: Float[Array, '*S'], returns: Float[Array, '*S'],
    mask: Bool[Array, '*S']
) -> Float[Array, '']:
  """1 - Var(return - value) / Var(return); 0 where the returns do not vary.

  1 is a perfect critic, 0 one no better than a constant, less is worse. Give
  it the values of sampling time: those trained on these returns flatter.
  """
  spread = masked.variance(returns, mask)
  left = masked.variance(returns - values, mask)
  return jnp.where(spread > 0, 1 - left / jnp.where(spread > 0, spread, 1.), 0.)
