"""PPO whose action is one turn (arXiv 2501.17161; 2508.16546, section 3).

A turn has one log-prob, ratio, advantage and value, V(prefix before its first
token); means are over turns, of the whole batch alike:

  log pi(turn) = sum_t weight_t * log_probs_t,   weights: `rollout.weights`
  ratio = pi(turn) / behaviour(turn)
  loss = - min(ratio A, clip(ratio, 1 - clip, 1 + clip) A)
         + value_coef * clipped (V - return)^2 / 2
         - entropy_coef * entropy + kl_coef * KL(policy || reference)

A is GAE over the turns of a row, which ends with its last turn, solved or not.
Above `ratio_guard` the clipped term alone counts: (1 + clip) A, no gradient.
Entropy and KL are those of `ppo.py`, per token and unweighted; both are off in
the papers. `turn_ppo_published.py` has the returns of the published code.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlft.ops import actor_critic, masked, surrogate, turns
from rlft.ops import advantages as credit
from rlft.types import Experience, Metrics, Outputs, Rollout


def advantages(rollout: Rollout, *, discount: float = 0.9, lam: float = 0.95,
               whiten: bool = True) -> Experience:
  """GAE over turns; every token of a turn carries its turn's."""
  ids = turns.ids_of(rollout.turn_ids, rollout.mask)
  starts = turns.starts(ids)
  gains, returns = credit.gae(
      turns.total(rollout.rewards, ids), rollout.values, starts,
      discount=discount, lam=lam)
  gains = masked.whiten(gains, starts) if whiten else gains
  return Experience(
      rollout, turns.spread(gains, ids), turns.spread(returns, ids))


def loss(outputs: Outputs, batch: Experience, *, clip: float = 0.1,
         value_clip: float | None = 0.1, value_coef: float = 0.5,
         entropy_coef: float = 0.0, kl_coef: float = 0.0,
         kl_estimator: str = 'k3', ratio_guard: float | None = 10.0
         ) -> tuple[Float[Array, ''], Metrics]:
  """Policy, value, entropy and KL terms; no gradient enters `batch`."""
  mask, ids = batch.mask, turns.ids_of(batch.rollout.turn_ids, batch.mask)
  starts = turns.starts(ids)  # where a turn's own numbers stand
  new = masked.keep_all(outputs, mask)
  old, gains, returns = jax.lax.stop_gradient(masked.keep_all(batch, mask))
  log_ratio = turns.total(old.weights * (new.log_probs - old.log_probs), ids)
  gained = surrogate.clipped(
      log_ratio, gains, low=clip, high=clip, guard=ratio_guard)
  if ratio_guard is not None:
    gained = jnp.where(
        jnp.exp(log_ratio) > ratio_guard, (1 + clip) * gains, gained)
  return actor_critic.combine(
      gained, log_ratio, new, old, gains, returns, actions=starts, mask=mask,
      clip=clip, value_clip=value_clip, value_coef=value_coef,
      entropy_coef=entropy_coef, kl_coef=kl_coef, kl_estimator=kl_estimator)
