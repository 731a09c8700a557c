"""The clipped surrogate of PPO, and when its clip decides."""
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def clipped(
    log_ratio: Float[Array, 'B T'], advantages: Float[Array, 'B T'], *,
    low: float | None, high: float | None, guard: float | None
) -> Float[Array, 'B T']:
  """min(ratio A, held ratio A), held in [1 - low, 1 + high].

  Equation 7 of arXiv 1707.06347; None leaves a side open. Where A < 0 a large
  ratio passes the clip: no ratio counts as more than `guard` (dual clip, arXiv
  1912.09729, eq. 5), which keeps one that overflows out of the gradient, too.
  ValueError for a guard inside of the clip.
  """
  if guard is not None:
    bound = 1 + (high or 0)
    if guard <= bound:
      raise ValueError(f'ratio_guard={guard} must be above 1 + clip = {bound}')
    log_ratio = jnp.minimum(log_ratio, jnp.log(guard))
  ratio = jnp.exp(log_ratio)
  held = jnp.clip(ratio, None if low is None else 1 - low,
                  None if high is None else 1 + high)
  return jnp.minimum(ratio * advantages, held * advantages)


def decided(
    log_ratio: Float[Array, 'B T'], advantages: Float[Array, 'B T'], *,
    low: float | None, high: float | None
) -> Bool[Array, 'B T']:
  """Where the ratio has left the clip on the gaining side: no gradient."""
  gained = (jnp.exp(log_ratio) - 1) * jnp.sign(advantages)
  bounds = [jnp.inf if bound is None else bound for bound in (low, high)]
  return gained > jnp.where(advantages > 0, bounds[1], bounds[0])
