"""What losses without a critic have in common (arXiv 2402.03300, eq. 3)."""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlft.ops import aggregate, kl, masked, surrogate
from rlft.types import Experience, Metrics, Outputs, Rollout

Gains = Float[Array, 'B T']


def known(outputs: Outputs, batch: Experience
          ) -> tuple[Outputs, Rollout, Gains]:
  """(new outputs, old rollout, advantages), 0 off the mask; no gradient enters
  the last two."""
  new = masked.keep_all(outputs, batch.mask)
  old, gains, _ = jax.lax.stop_gradient(masked.keep_all(batch, batch.mask))
  return new, old, gains


def clipped_loss(
    log_ratio: Float[Array, 'B T'], new: Outputs, old: Rollout, gains: Gains, *,
    clip_low: float | None, clip_high: float | None, ratio_guard: float | None,
    aggregation: str, kl_coef: float = 0.0, kl_estimator: str = 'k3',
    importance_cap: float | None = None,
) -> tuple[Float[Array, ''], Metrics]:
  """Clipped surrogate and KL; `log_ratio` is that of the action.

  Which is a token, or a row: then all of its tokens carry its ratio. The
  correction for the sampler (`surrogate.corrected`) is of tokens.
  """
  clip = dict(low=clip_low, high=clip_high)
  gained, weighed = surrogate.corrected(
      surrogate.clipped(log_ratio, gains, guard=ratio_guard, **clip), old,
      cap=importance_cap)
  loss, metrics = combine(
      gained, new, old, aggregation=aggregation, kl_coef=kl_coef,
      kl_estimator=kl_estimator)
  decided = surrogate.decided(log_ratio, gains, **clip)
  return loss, metrics | weighed | {
      'clip_fraction': masked.mean(decided.astype(jnp.float32), old.mask)}


def combine(
    gained: Float[Array, 'B T'], new: Outputs, old: Rollout, *,
    aggregation: str, kl_coef: float = 0.0, kl_estimator: str = 'k3',
) -> tuple[Float[Array, ''], Metrics]:
  """-(what is gained) + kl_coef * KL(policy || reference), both aggregated.

  Entropy, KL (k3) and ratios are logged per token, whatever the aggregation.
  """
  mask, mean = old.mask, aggregate.named(aggregation)
  penalty = kl.estimator(kl_estimator)(new.log_probs, old.ref_log_probs)
  ratio = jnp.exp(new.log_probs - old.log_probs)
  metrics = {
      'entropy': masked.mean(new.entropy, mask),
      'kl': masked.mean(kl.k3(new.log_probs, old.ref_log_probs), mask),
      'approx_kl': masked.mean(kl.k3(old.log_probs, new.log_probs), mask),
      'ratio_mean': masked.mean(ratio, mask),
      'ratio_max': masked.maximum(ratio, mask),
      'completion_tokens': masked.count(mask),
      'loss_weight': aggregate.weight(aggregation, mask)}
  return kl_coef * mean(penalty, mask) - mean(gained, mask), metrics
