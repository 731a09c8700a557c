"""GRPO done right (arXiv 2503.20783, section 3.2): no biased weights.

As `grpo.py`, but A = R - mean, not divided by the deviation, so that prompts
that are almost always or never solved do not weigh more; and a token weighs the
same in a short and in a long completion: sums over tokens, divided by a
constant (`constant_length` of `ops/aggregate.py`). No KL in the paper.
"""
from jaxtyping import Array, Float

from rlft.ops import actor, groups, masked
from rlft.types import Experience, Metrics, Outputs, Rollout


def advantages(rollout: Rollout) -> Experience:
  """Returns less the mean of their group."""
  mask = rollout.mask
  returns = masked.row_total(rollout.rewards, mask)
  gains = returns - groups.mean(
      returns, rollout.prompt_ids, mask.any(axis=1))
  return Experience(rollout, masked.along_rows(gains, mask),
                    masked.along_rows(returns, mask))


def loss(outputs: Outputs, batch: Experience, *, clip: float = 0.2,
         kl_coef: float = 0.0, kl_estimator: str = 'k3',
         ratio_guard: float | None = 10.0, importance_cap: float | None = None
         ) -> tuple[Float[Array, ''], Metrics]:
  """Policy and KL terms; no gradient enters `batch`."""
  new, old, gains = actor.known(outputs, batch)
  return actor.clipped_loss(
      new.log_probs - old.log_probs, new, old, gains, clip_low=clip,
      clip_high=clip, ratio_guard=ratio_guard, aggregation='constant_length',
      kl_coef=kl_coef, kl_estimator=kl_estimator,
      importance_cap=importance_cap)
