"""What rlft says of the batches, by name; NaN stands off every mask.

Every number is that of one batch, so a name has an array of N of them. Of a
loss `NAME` there are also `NAME/log_probs`, `/values` and `/entropy`: its
gradients by those of the policy that learns, which are 0 off the mask.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rlft.objectives import (
    dapo,
    dr_grpo,
    grpo,
    gspo,
    one_zero_reinforce,
    ppo,
    reinforce_pp,
    rloo,
)
from rlft.ops import advantages, aggregate, kl, masked
from rlft.rewards import kl as kl_reward
from rlft.types import Experience, Outputs, Rollout
from tests.parity.rl import settings
from tests.parity.rl.batches import Batches

PART = 200  # batches that are computed at once: compiled once
Numbers = dict[str, Float[Array, '...']]


def answers(batches: Batches) -> dict[str, np.ndarray]:
  """Everything, of all batches."""
  parts = [
      _of_all(Batches(*(jnp.asarray(x[i:i + PART]) for x in batches)))
      for i in range(0, len(batches.mask), PART)]
  return {name: np.concatenate([x[name] for x in parts]) for name in parts[0]}


def _of_one(batch: Batches) -> Numbers:
  batch = jax.tree.map(
      lambda x: jnp.where(batch.mask, x, jnp.nan)
      if x.shape == batch.mask.shape and x.dtype != bool else x, batch)
  return (_credit(batch) | _estimators(batch) | _aggregations(batch)
          | _losses(batch) | _on_policy(batch))


_of_all = jax.jit(jax.vmap(_of_one))


def _credit(batch: Batches) -> Numbers:
  """Advantages and returns, and the rewards that they are of."""
  old = rollout(batch)
  gained, returns = advantages.gae(
      old.rewards, old.values, old.mask, discount=settings.DISCOUNT,
      lam=settings.LAM)
  whitened = ppo.advantages(old, discount=settings.DISCOUNT, lam=settings.LAM)
  raw = functools.partial(
      reinforce_pp.advantages, old, discount=settings.DISCOUNT,
      kl_reward_coef=0.)
  found = {
      'gae': gained, 'gae/returns': returns,
      'gae/whitened': whitened.advantages,
      'whiten': masked.whiten(batch.gains, batch.mask),
      'grpo/advantages': grpo.advantages(old).advantages,
      'dr_grpo/advantages': dr_grpo.advantages(old).advantages,
      'rloo/advantages': rloo.advantages(old).advantages,
      'reinforce_pp/returns': raw(whiten=False).advantages,
      'reinforce_pp/advantages': raw().advantages,
      'rewards': kl_reward.penalise(
          batch.rewards, batch.log_probs, batch.ref_log_probs, batch.mask,
          coef=settings.KL_REWARD_COEF)}
  return {name: masked.keep(x, batch.mask) for name, x in found.items()}


def _estimators(batch: Batches) -> Numbers:
  found = {}
  for name in settings.ESTIMATORS:
    def total(log_probs, name=name):
      each = kl.estimator(name)(log_probs, batch.ref_log_probs)
      return masked.total(each, batch.mask), masked.keep(each, batch.mask)
    gradient, each = jax.grad(total, has_aux=True)(batch.new_log_probs)
    found |= {f'kl/{name}': each,
              f'kl/{name}/log_probs': masked.keep(gradient, batch.mask)}
  return found


def _aggregations(batch: Batches) -> Numbers:
  found = {}
  for name in settings.AGGREGATIONS:
    value, gradient = jax.value_and_grad(aggregate.named(name))(
        batch.gains, batch.mask)
    found |= {name: value, f'{name}/gains': gradient}
  return found


def _losses(batch: Batches) -> Numbers:
  """Of whatever advantages are given; a row's where the action is a row."""
  old, gains = rollout(batch), batch.gains
  rows = masked.along_rows(batch.row_gains, batch.mask)
  of = functools.partial(_loss, batch, old)
  found = of('ppo', ppo.loss, gains, **settings.PPO)
  found |= of('dapo', dapo.loss, gains, **settings.DAPO)
  found |= of('dr_grpo', dr_grpo.loss, gains, **settings.CLIP)
  found |= of('reinforce_pp', reinforce_pp.loss, gains, **settings.CLIP)
  found |= of('gspo', gspo.loss, rows, **settings.GSPO)
  found |= of('gspo_wide', gspo.loss, rows, **settings.GSPO_WIDE)
  found |= of('rloo', rloo.loss, rows, **settings.RLOO)
  found |= of('ppo_plain', ppo.loss, gains, **settings.PPO_PLAIN)
  for name in settings.AGGREGATIONS:
    found |= of(f'grpo/{name}', grpo.loss, gains, aggregation=name,
                **settings.GRPO)
  return found


def _on_policy(batch: Batches) -> Numbers:
  """Of the first step on a rollout, whose ratios are 1."""
  old = rollout(batch)._replace(log_probs=batch.new_log_probs)
  rows = masked.along_rows(batch.row_gains, batch.mask)
  right = masked.along_rows(jnp.where(batch.row_gains > 0, 1., 0.), batch.mask)
  return (_loss(batch, old, 'rloo/on_policy', rloo.loss, rows,
                ratio_guard=10.0)
          | _loss(batch, old, 'one_zero_reinforce', one_zero_reinforce.loss,
                  right))


def _loss(batch: Batches, old: Rollout, name: str, loss, gains, **hyper
          ) -> Numbers:
  """A loss and its gradients; only those that a policy or critic gets."""
  learning = Outputs(
      batch.new_log_probs, batch.entropy, batch.new_values,
      batch.entropy[..., None])
  known = Experience(old, gains, batch.returns)
  (value, metrics), gradients = jax.value_and_grad(
      lambda new: loss(new, known, **hyper), has_aux=True)(learning)
  found = {name: value, f'{name}/log_probs': gradients.log_probs}
  if loss is ppo.loss:
    found |= {f'{name}/policy': metrics['policy_loss'],
              f'{name}/critic': metrics['value_loss'],
              f'{name}/values': gradients.values,
              f'{name}/entropy': gradients.entropy}
  return found


def rollout(batch: Batches) -> Rollout:
  """As a source would hand it on; a row is one turn."""
  mask: Bool[Array, 'B T'] = batch.mask
  return Rollout(
      tokens=jnp.zeros(mask.shape, jnp.int32), mask=mask,
      turn_ids=jnp.where(mask, 0, -1), rewards=batch.rewards,
      prompt_ids=batch.prompt_ids, log_probs=batch.log_probs,
      ref_log_probs=batch.ref_log_probs, values=batch.values,
      weights=mask.astype(jnp.float32), sampler_log_probs=batch.log_probs,
      truncated=jnp.zeros(len(mask), bool))
