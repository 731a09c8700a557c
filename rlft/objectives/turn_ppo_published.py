"""Turn PPO with the returns of the published code (arXiv 2501.17161).

The loss is that of `turn_ppo.py`. There a hand that ran out of tries is a
trajectory by itself. Here, as in that code, GAE runs over the turns of all rows
in order, one hand after another, and is cut only after a solved hand: a failed
one bootstraps from, and takes over the advantage of, whatever hand comes next
(its masks are 1 - done, and a hand at its limit is truncated, not done).

Advantages are standardised as there: sample deviation (n - 1), 1e-5 added.
What is set elsewhere, or needs nothing:
  its answer after the last try, trained on    env.mode='faithful', tries=6
  its first two tokens of a turn, not counted  experience.skip_tokens=2
  its weight of the thoughts                   env.thought_coef=0.5

What is not reproduced:
  A rollout of a fixed number of turns, so that hands are cut at its end, the
  last turn bootstraps from the next state, and the rest opens the next rollout:
  rows are whole hands, and the last bootstraps from 0. One buffer per process:
  the rows are one. Log-probs in bfloat16: float32. Minibatches of one turn,
  accumulated: of rows. A turn whose log-prob is not a number is left out: here
  it is an error. A turn without the formula's key, which is found by Llama's
  token ids (so any turn of Qwen), counts its last five tokens fully, and -2 if
  it has no five: here it is all thought. An MLP on the policy's own hidden
  state as critic, at the policy's rate: `policy.make_critic`.
"""
import jax.numpy as jnp

from rlft.objectives import turn_ppo
from rlft.ops import advantages as credit
from rlft.ops import masked, turns
from rlft.types import Experience, Rollout

loss = turn_ppo.loss


def advantages(rollout: Rollout, *, discount: float = 0.9, lam: float = 0.95,
               solved: float = 5.0) -> Experience:
  """GAE through failed hands; a turn that is paid `solved` ends its hand.

  Which is what that code calls done. In units of the rollout's rewards, so
  times `experience.reward_scale`.
  """
  ids = turns.ids_of(rollout.turn_ids, rollout.mask)
  starts = turns.starts(ids)
  rewards = turns.total(rollout.rewards, ids)
  gains = credit.gae_of_stream(
      rewards, rollout.values, starts, rewards >= solved, discount=discount,
      lam=lam)
  returns = masked.keep(gains + rollout.values, starts)
  count = masked.count(starts)
  deviation = jnp.sqrt(
      masked.variance(gains, starts) * count / jnp.maximum(count - 1, 1))
  gains = (gains - masked.mean(gains, starts)) / (deviation + 1e-5)
  return Experience(
      rollout, turns.spread(gains, ids), turns.spread(returns, ids))
