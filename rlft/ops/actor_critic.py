"""What losses with an actor and a critic have in common (arXiv 1707.06347)."""
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlft.ops import critic, kl, masked
from rlft.types import Metrics, Outputs, Rollout


def combine(
    surrogate: Float[Array, 'B T'], log_ratio: Float[Array, 'B T'],
    new: Outputs, old: Rollout, gains: Float[Array, 'B T'],
    returns: Float[Array, 'B T'], *, actions: Bool[Array, 'B T'],
    mask: Bool[Array, 'B T'], clip: float, value_clip: float | None,
    value_coef: float, entropy_coef: float, kl_coef: float, kl_estimator: str,
) -> tuple[Float[Array, ''], Metrics]:
  """Policy, value, entropy and KL terms, and what is logged of them.

  `actions` is True where an action's surrogate, ratio, advantage, value and
  return stand: every token of the `mask`, or the first of each turn. Entropy
  and KL are means over the tokens of the mask.
  """
  ratio = jnp.exp(log_ratio)
  plain_error = 0.5 * jnp.square(new.values - returns)
  error = critic.half_square(new.values, old.values, returns, clip=value_clip)
  penalty = kl.estimator(kl_estimator)(new.log_probs, old.ref_log_probs)
  metrics = {
      'policy_loss': -masked.mean(surrogate, actions),
      'value_loss': masked.mean(error, actions),
      'entropy': masked.mean(new.entropy, mask),
      'kl': masked.mean(kl.k3(new.log_probs, old.ref_log_probs), mask),
      'approx_kl': masked.mean(kl.k3(old.log_probs, new.log_probs), mask),
      'ratio_mean': masked.mean(ratio, actions),
      'ratio_max': masked.maximum(ratio, actions),
      'clip_fraction': masked.mean(
          (ratio - 1) * jnp.sign(gains) > clip, actions),
      'value_clip_fraction': masked.mean(error > plain_error, actions),
      'explained_variance': critic.explained_variance(
          old.values, returns, actions),
      'completion_tokens': masked.count(mask),
      'loss_weight': masked.count(actions)}
  return (metrics['policy_loss'] + value_coef * metrics['value_loss']
          - entropy_coef * metrics['entropy']
          + kl_coef * masked.mean(penalty, mask)), metrics
