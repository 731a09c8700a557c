"""REINFORCE++ (arXiv 2501.03262): PPO's loss, no critic, batch statistics.

  A_t = sum over the tokens from t on of reward - kl_reward_coef * k1,
        standardised over all tokens of the rollout (not of a group)
  loss = - min(ratio A, clip(ratio, 1 - clip, 1 + clip) A),   ratio of a token

averaged over the tokens of a row, then over rows (`aggregation`). One
completion of a prompt is enough. `ratio_guard` and `importance_cap` as in
`grpo.py`.
"""
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlft.ops import actor, masked
from rlft.ops import advantages as credit
from rlft.rewards import kl as kl_reward
from rlft.types import Experience, Metrics, Outputs, Rollout, Scalar


def advantages(rollout: Rollout, *, discount: float = 1.0, whiten: bool = True,
               kl_reward_coef: Scalar = 0.01, kl_estimator: str = 'k1'
               ) -> Experience:
  """Rewards to come less the KL to come; no token is paid for the past."""
  mask = rollout.mask
  rewards = kl_reward.penalise(
      rollout.rewards, rollout.log_probs, rollout.ref_log_probs, mask,
      coef=kl_reward_coef, estimator=kl_estimator)
  # GAE without a critic and without decay is the sum of rewards to come.
  returns, _ = credit.gae(
      rewards, jnp.zeros_like(rewards), mask, discount=discount, lam=1.0)
  gains = masked.whiten(returns, mask) if whiten else returns
  return Experience(rollout, gains, returns)


def loss(outputs: Outputs, batch: Experience, *, clip: float = 0.2,
         ratio_guard: float | None = 10.0, aggregation: str = 'row_mean',
         importance_cap: float | None = None
         ) -> tuple[Float[Array, ''], Metrics]:
  """The policy term; no gradient enters `batch`."""
  new, old, gains = actor.known(outputs, batch)
  return actor.clipped_loss(
      new.log_probs - old.log_probs, new, old, gains, clip_low=clip,
      clip_high=clip, ratio_guard=ratio_guard, aggregation=aggregation,
      importance_cap=importance_cap)
