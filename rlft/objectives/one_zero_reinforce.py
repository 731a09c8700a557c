"""1-0 REINFORCE (arXiv 2509.04259, section 4): only what is right is learned.

  loss = - mean over rows of 1[return >= solved] * log pi(row)

log pi(row) is the sum over its tokens. No baseline, no negative advantages, no
ratio and no clip, so it is meant for one step on each rollout. A wrong row
counts in the mean, with 0: the more often the policy is right, the larger the
gradient, as in REINFORCE and unlike `expert_iteration.py`.
"""
from jaxtyping import Array, Float

from rlft.ops import actor, masked
from rlft.types import Experience, Metrics, Outputs, Rollout


def advantages(rollout: Rollout, *, solved: float = 1.0) -> Experience:
  """1 on the tokens of a row whose return is `solved` or more, else 0.

  In units of the rollout's rewards, so times `experience.reward_scale`.
  """
  mask = rollout.mask
  returns = masked.row_total(rollout.rewards, mask)
  right = (returns >= solved).astype(returns.dtype)
  return Experience(rollout, masked.along_rows(right, mask),
                    masked.along_rows(returns, mask))


def loss(outputs: Outputs, batch: Experience
         ) -> tuple[Float[Array, ''], Metrics]:
  """The policy term; no gradient enters `batch`."""
  new, old, gains = actor.known(outputs, batch)
  log_probs = masked.row_total(gains * new.log_probs, old.mask)
  return actor.combine(
      masked.along_rows(log_probs, old.mask), new, old, aggregation='row_mean')
