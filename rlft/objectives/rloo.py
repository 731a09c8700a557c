"""REINFORCE with a leave-one-out baseline (arXiv 2402.14740, section 2.3).

The action is the whole completion, its log-prob the sum over tokens. With R the
return of a row less the KL of all of its tokens (k1; eq. 2 of the paper):

  A = R - mean of the other returns of its group
  loss = - mean over rows of ratio * A,    ratio = pi(row) / behaviour(row)

whose gradient on the policy's own samples is that of REINFORCE. The paper clips
nothing; a rollout that is learned from in several minibatches may want `clip`.
`ratio_guard` bounds the ratio in any case, which is a product over tokens.
"""
from jaxtyping import Array, Float

from rlft.ops import actor, groups, masked
from rlft.rewards import kl as kl_reward
from rlft.types import Experience, Metrics, Outputs, Rollout, Scalar


def advantages(rollout: Rollout, *, kl_reward_coef: Scalar = 0.0,
               kl_estimator: str = 'k1') -> Experience:
  """Returns less the mean of the others; 0 in a group of one."""
  mask = rollout.mask
  returns = masked.row_total(kl_reward.penalise(
      rollout.rewards, rollout.log_probs, rollout.ref_log_probs, mask,
      coef=kl_reward_coef, estimator=kl_estimator), mask)
  gains = returns - groups.leave_one_out(
      returns, rollout.prompt_ids, mask.any(axis=1))
  return Experience(rollout, masked.along_rows(gains, mask),
                    masked.along_rows(returns, mask))


def loss(outputs: Outputs, batch: Experience, *, clip: float | None = None,
         ratio_guard: float | None = 10.0) -> tuple[Float[Array, ''], Metrics]:
  """The policy term; no gradient enters `batch`."""
  new, old, gains = actor.known(outputs, batch)
  log_ratio = masked.along_rows(masked.row_total(
      new.log_probs - old.log_probs, old.mask), old.mask)
  return actor.clipped_loss(
      log_ratio, new, old, gains, clip_low=clip, clip_high=clip,
      ratio_guard=ratio_guard, aggregation='row_mean')
