"""Proximal policy optimisation with a critic (arXiv 1707.06347).

Token means over the batch; ratio = pi(token) / behaviour(token); A is GAE:

  loss = - min(ratio A, clip(ratio, 1 - clip, 1 + clip) A)              eq. 7
         + value_coef * clipped (V - return)^2 / 2 - entropy_coef * entropy
         + kl_coef * KL(policy || reference)

The KL term is differentiated on the behaviour's tokens as they are: see
`ops/kl.py` before choosing k1. `ratio_guard` bounds the ratio where A < 0, as
eq. 7 does not (dual clip, arXiv 1912.09729). None switches a clip or it off.
`importance_cap` weighs the policy term of a token for what the sampler made of
it: see `ops/surrogate.py:corrected`.
"""
import jax
from jaxtyping import Array, Float

from rlft.ops import actor_critic, masked, surrogate
from rlft.ops import advantages as credit
from rlft.rewards import kl as kl_reward
from rlft.types import Experience, Metrics, Outputs, Rollout, Scalar


def advantages(rollout: Rollout, *, discount: float = 1.0, lam: float = 0.95,
               whiten: bool = True, whiten_rewards: bool = False,
               kl_reward_coef: Scalar = 0.0, kl_estimator: str = 'k1'
               ) -> Experience:
  """GAE on rewards less the KL; the advantages are whitened, not the returns.

  `whiten_rewards` divides those rewards by their deviation over tokens, before
  anything else; their mean stays (arXiv 2403.17031 found that it does harm).
  """
  rewards = kl_reward.penalise(
      rollout.rewards, rollout.log_probs, rollout.ref_log_probs, rollout.mask,
      coef=kl_reward_coef, estimator=kl_estimator)
  if whiten_rewards:
    rewards = masked.whiten(rewards, rollout.mask, center=False)
  gains, returns = credit.gae(
      rewards, rollout.values, rollout.mask, discount=discount, lam=lam)
  gains = masked.whiten(gains, rollout.mask) if whiten else gains
  return Experience(rollout, gains, returns)


def loss(outputs: Outputs, batch: Experience, *, clip: float = 0.2,
         value_clip: float | None = 0.2, value_coef: float = 0.5,
         entropy_coef: float = 0.0, kl_coef: float = 0.0,
         kl_estimator: str = 'k3', ratio_guard: float | None = 10.0,
         importance_cap: float | None = None
         ) -> tuple[Float[Array, ''], Metrics]:
  """Policy, value, entropy and KL terms; no gradient enters `batch`."""
  mask = batch.mask
  new = masked.keep_all(outputs, mask)
  old, gains, returns = jax.lax.stop_gradient(masked.keep_all(batch, mask))
  log_ratio = new.log_probs - old.log_probs
  gained, weighed = surrogate.corrected(surrogate.clipped(
      log_ratio, gains, low=clip, high=clip, guard=ratio_guard), old,
      cap=importance_cap)
  loss, metrics = actor_critic.combine(
      gained, log_ratio, new, old, gains, returns, actions=mask, mask=mask,
      clip=clip, value_clip=value_clip, value_coef=value_coef,
      entropy_coef=entropy_coef, kl_coef=kl_coef, kl_estimator=kl_estimator)
  return loss, metrics | weighed
