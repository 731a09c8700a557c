"""What verl says of the batches: runs in an environment of verl's own.

    python -m tests.parity.rl.verl_side BATCHES.npz ANSWERS.npz

Names are those of `ours.py` where definitions agree; names that begin with
`verl:` are of what verl defines otherwise. NaN is verl's own.
"""
import functools
import sys
import types

import numpy as np
import torch
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos
from verl.utils import torch_functional
from verl.workers.config import ActorConfig

from tests.parity.rl import settings

AGGREGATIONS = dict(zip(settings.AGGREGATIONS, (
    'token-mean', 'seq-mean-token-mean', 'seq-mean-token-sum-norm'),
    strict=True))
Numbers = dict[str, torch.Tensor]


def actor(
    *, ratio_guard: float, clip: float | None = None,
    clip_low: float | None = None, clip_high: float | None = None, **_,
) -> ActorConfig:
  """verl's settings of a policy's loss."""
  return ActorConfig(
      strategy='fsdp', rollout_n=1, ppo_micro_batch_size_per_gpu=1,
      clip_ratio_low=clip_low or clip, clip_ratio_high=clip_high or clip,
      clip_ratio_c=ratio_guard)


PPO, GRPO, DAPO, CLIP, GSPO, GSPO_WIDE = (
    actor(**known) for known in (
        settings.PPO, settings.GRPO, settings.DAPO, settings.CLIP,
        settings.GSPO, settings.GSPO_WIDE))
DISCOUNTED = AlgoConfig(gamma=settings.DISCOUNT)


def credit(b: types.SimpleNamespace) -> Numbers:
  """Advantages and returns; those of one token cannot be whitened."""
  ids = b.prompt_ids.numpy()
  gae = functools.partial(
      core_algos.compute_gae_advantage_return, b.rewards, b.values,
      gamma=settings.DISCOUNT, lam=settings.LAM)
  grpo = functools.partial(
      core_algos.compute_grpo_outcome_advantage, index=ids)
  many = b.mask.sum() > 1
  # returns do not depend on the whitening, which refuses a mask of one token
  returns = gae(response_mask=b.mask)[1] if many else torch.zeros_like(b.mask)
  whole = torch.ones_like(b.mask)
  found = {
      'gae': (returns - b.values) * many, 'gae/returns': returns,
      'verl:gae/whitened': gae(response_mask=b.mask)[0] if many else whole,
      'verl:whiten': (torch_functional.masked_whiten(b.gains, b.mask)
                      if many else whole),
      'verl:grpo/advantages': grpo(b.rewards.clone(), b.mask)[0],
      'verl:grpo_vectorized/advantages':
          core_algos.compute_grpo_vectorized_outcome_advantage(
              b.rewards, b.mask, ids)[0],
      'verl:dr_grpo/advantages': grpo(
          b.rewards.clone(), b.mask, norm_adv_by_std_in_grpo=False)[0],
      'verl:rloo/advantages': core_algos.compute_rloo_outcome_advantage(
          b.rewards.clone(), b.mask, ids)[0],
      'rloo/advantages': core_algos.compute_rloo_vectorized_outcome_advantage(
          b.rewards, b.mask, ids)[0]}
  if many:
    standard, sums = core_algos.compute_reinforce_plus_plus_outcome_advantage(
        b.rewards, b.mask, config=DISCOUNTED)
  else:
    standard = sums = whole
  found |= {'reinforce_pp/returns': sums,
            'verl:reinforce_pp/advantages': standard}
  found['rewards'] = core_algos.compute_rewards(
      b.rewards, b.log_probs, b.ref_log_probs, settings.KL_REWARD_COEF)
  return {name: torch.where(b.mask > 0, x, 0.) for name, x in found.items()}


def estimators(b: types.SimpleNamespace) -> Numbers:
  found = {}
  for name in (*settings.ESTIMATORS, 'k3+'):
    new = learning(b.new_log_probs)
    each = core_algos.kl_penalty(new, b.ref_log_probs, name)
    (each * b.mask).sum().backward()
    key = f'kl/{name}' if name in settings.ESTIMATORS else f'verl:kl/{name}'
    found |= {key: each.detach() * b.mask, f'{key}/log_probs': new.grad}
  return found


def aggregations(b: types.SimpleNamespace) -> Numbers:
  found = {}
  modes = AGGREGATIONS | {'verl:token_sum': 'token-sum',
                          'verl:row_sum': 'seq-mean-token-sum'}
  for name, mode in modes.items():
    gains = learning(b.gains)
    value = core_algos.agg_loss(gains, b.mask, mode)
    value.backward()
    found |= {name: value.detach(), f'{name}/gains': gains.grad}
  return found


def policy(
    b: types.SimpleNamespace, mode: str, gains: torch.Tensor,
    config: ActorConfig, *, loss: str = 'vanilla', kl_coef: float = 0.,
    kl_estimator: str = 'k1', **_,
) -> tuple[torch.Tensor, torch.Tensor]:
  """(loss with its KL, the leaf that it is of)."""
  new = learning(b.new_log_probs)
  value, _ = core_algos.get_policy_loss_fn(loss)(
      old_log_prob=b.log_probs, log_prob=new, advantages=gains,
      response_mask=b.mask, loss_agg_mode=mode, config=config)
  cost = core_algos.kl_penalty(new, b.ref_log_probs, kl_estimator)
  return value + kl_coef * core_algos.agg_loss(cost, b.mask, mode), new


def losses(b: types.SimpleNamespace) -> Numbers:
  rows = b.row_gains[:, None] * b.mask
  token, row, constant = AGGREGATIONS.values()
  of = functools.partial(policy, b)
  made = {
      'dapo': of(token, b.gains, DAPO),
      'dr_grpo': of(constant, b.gains, CLIP),
      'reinforce_pp': of(row, b.gains, CLIP),
      'gspo': of(row, rows, GSPO, loss='gspo'),
      'gspo_wide': of(row, rows, GSPO_WIDE, loss='gspo')}
  for name, mode in AGGREGATIONS.items():
    made[f'grpo/{name}'] = of(mode, b.gains, GRPO, **settings.GRPO)
  found = {}
  for name, (value, new) in made.items():
    value.backward()
    found |= {name: value.detach(), f'{name}/log_probs': new.grad}
  return found | actor_critic(b) | reinforce(b)


def actor_critic(b: types.SimpleNamespace) -> Numbers:
  """Policy, critic, entropy and KL, put together as PPO's actor and critic
  would, had they one loss."""
  mode = AGGREGATIONS['token_mean']
  value, new = policy(b, mode, b.gains, PPO, **settings.PPO)
  values, entropy = learning(b.new_values), learning(b.entropy)
  critic, _ = core_algos.compute_value_loss(
      values, b.returns, b.values, b.mask, settings.PPO['value_clip'], mode)
  value = (value + settings.PPO['value_coef'] * critic
           - settings.PPO['entropy_coef']
           * core_algos.agg_loss(entropy, b.mask, mode))
  value.backward()
  return {'ppo': value.detach(), 'ppo/log_probs': new.grad,
          'ppo/values': values.grad, 'ppo/entropy': entropy.grad}


def reinforce(b: types.SimpleNamespace) -> Numbers:
  """The gradient of log-probabilities, times advantages, summed over rows."""
  found = {}
  for name, gains in (('verl:reinforce', b.row_gains),
                      ('one_zero_reinforce', (b.row_gains > 0).float())):
    new = learning(b.new_log_probs)
    value, _ = core_algos.compute_policy_loss_reinforce(
        b.log_probs, new, gains[:, None] * b.mask, b.mask,
        'seq-mean-token-sum', CLIP)
    value.backward()
    found |= {name: value.detach(), f'{name}/log_probs': new.grad}
  return found


def adapted(measured: np.ndarray, rows: int) -> np.ndarray:
  """The next coefficient of KL, from one and the same before."""
  found = []
  for one in measured:
    control = core_algos.AdaptiveKLController(
        settings.ADAPTED['coef'], settings.ADAPTED['target'],
        settings.ADAPTED['horizon'])
    control.update(float(one), rows)
    found.append(control.value)
  return np.array(found)


def learning(x: torch.Tensor) -> torch.Tensor:
  """A leaf of its own; a gradient that never comes is one of 0."""
  made = x.clone().requires_grad_()
  made.grad = torch.zeros_like(made)
  return made


def answers(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  found = {}
  for i in range(len(arrays['mask'])):
    b = types.SimpleNamespace(**{
        name: torch.tensor(x[i]) for name, x in arrays.items()})
    b.mask = b.mask.float()
    one = credit(b) | estimators(b) | aggregations(b) | losses(b)
    for name, x in one.items():
      found.setdefault(name, []).append(x.numpy())
  found = {name: np.stack(x) for name, x in found.items()}
  measured = arrays['entropy'][:, 0, 0]  # any positive number
  return found | {'adapted': adapted(measured, arrays['mask'].shape[1])}


if __name__ == '__main__':
  torch.set_num_threads(1)
  with np.load(sys.argv[1]) as given:
    np.savez(sys.argv[2], **answers(dict(given)))
