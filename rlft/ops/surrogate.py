"""The clipped surrogate of PPO, when its clip decides, and whose samples."""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlft.ops import masked
from rlft.types import Metrics, Rollout


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


def corrected(
    gained: Float[Array, 'B T'], old: Rollout, *, cap: float | None
) -> tuple[Float[Array, 'B T'], Metrics]:
  """What is gained, weighed for a sampler that is not quite the trainer.

  Truncated importance sampling (Yao et al. 2025, "On the Rollout-Training
  Mismatch in Modern RL Systems"; the weight is that of arXiv 1802.01561, eq.
  1): each token times min(behaviour probability / the sampler's, cap), through
  which no gradient goes. Both are full softmaxes at the sampling temperature.
  None changes nothing. `importance_capped` is the share of tokens at the cap.
  ValueError for a cap that is not above 0.
  """
  if cap is None:
    return gained, {}
  if cap <= 0:
    raise ValueError(f'importance_cap={cap}: give a number above 0, or None')
  gap = masked.keep(old.log_probs - old.sampler_log_probs, old.mask)
  weights = jax.lax.stop_gradient(jnp.minimum(jnp.exp(gap), cap))
  return weights * gained, {
      'importance_mean': masked.mean(weights, old.mask),
      'importance_capped': masked.mean(
          (jnp.exp(gap) > cap).astype(jnp.float32), old.mask)}
