"""Decoupled clip and dynamic sampling (DAPO, arXiv 2503.14476, eq. 8 to 13).

GRPO with a clip that is wider above than below, so that rare tokens can grow;
a mean over all tokens of the batch; a reward that falls with the length of long
completions (`rewards/overlong.py`); and no KL. What else it has is a matter of
where the rollouts come from: its overlong filtering is
`experience.mask_truncated`, its dynamic sampling, which drops prompts whose
completions are all right or all wrong, the source `dynamic`. From another
source such a group has advantages of 0, and its tokens still count in the mean.
`importance_cap` as in `grpo.py`.
"""
from jaxtyping import Array, Float

from rlft.objectives import grpo
from rlft.ops import actor
from rlft.rewards import overlong
from rlft.types import Experience, Metrics, Outputs, Rollout


def advantages(rollout: Rollout, *, overlong_limit: int = 20480,
               overlong_margin: int = 4096, overlong_penalty: float = 1.0
               ) -> Experience:
  """Those of GRPO on returns less the punishment of long completions.

  `overlong_limit`, in tokens of a row that count, is the longest that can be
  sampled; `overlong_penalty` is in units of the rollout's rewards.
  """
  rewards = overlong.penalise(
      rollout.rewards, rollout.mask, limit=overlong_limit,
      margin=overlong_margin, penalty=overlong_penalty)
  shaped = grpo.advantages(rollout._replace(rewards=rewards))
  return shaped._replace(rollout=rollout)


def loss(outputs: Outputs, batch: Experience, *, clip_low: float = 0.2,
         clip_high: float = 0.28, kl_coef: float = 0.0,
         kl_estimator: str = 'k3', ratio_guard: float | None = 10.0,
         aggregation: str = 'token_mean', importance_cap: float | None = None
         ) -> tuple[Float[Array, ''], Metrics]:
  """Policy and KL terms; no gradient enters `batch`."""
  new, old, gains = actor.known(outputs, batch)
  return actor.clipped_loss(
      new.log_probs - old.log_probs, new, old, gains, clip_low=clip_low,
      clip_high=clip_high, ratio_guard=ratio_guard, aggregation=aggregation,
      kl_coef=kl_coef, kl_estimator=kl_estimator,
      importance_cap=importance_cap)
