"""What the last PPO of TRL says: runs in an environment of TRL's own.

    python -m tests.parity.rl.trl_ppo_side BATCHES.npz ANSWERS.npz

A row is a response that begins in the first column and has `lengths` tokens;
its score stands one token behind its end, where there is room, and the value of
that token counts. Names are those of `live_trl.py`.
"""
import sys
import types

import numpy as np
import torch
from trl.experimental.ppo import ppo_trainer

from tests.parity.rl import cutting, settings

TRAIN = ppo_trainer.PPOTrainer.train
CREDIT = cutting.cut(
    TRAIN, 'response_idxs = torch.arange(',
    'advantages = torch.masked_fill(advantages, padding_mask, 0)')
LOSS = cutting.cut(TRAIN, 'vpredclipped = torch.clamp(', 'loss = pg_loss +')


def settings_of(estimator: str) -> types.SimpleNamespace:
  """What the trainer reads of its config."""
  return types.SimpleNamespace(
      kl_estimator=estimator, kl_coef=settings.KL_REWARD_COEF,
      whiten_rewards=False, gamma=settings.DISCOUNT, lam=settings.LAM,
      cliprange=settings.PPO_PLAIN['clip'],
      cliprange_value=settings.PPO_PLAIN['value_clip'],
      vf_coef=settings.PPO_PLAIN['value_coef'])


def credit(b: types.SimpleNamespace, estimator: str) -> dict[str, torch.Tensor]:
  """Rewards, returns and advantages; the last are whitened."""
  with torch.no_grad():
    found = cutting.run(
        CREDIT, TRAIN, args=settings_of(estimator), responses=b.mask,
        sequence_lengths=b.lengths - 1, logprobs=b.log_probs,
        ref_logprobs=b.ref_log_probs, values=b.values, scores=b.scores)
  name = f'{estimator}/'
  return {name + 'rewards': found['rewards'],
          name + 'returns': torch.where(
              found['padding_mask_p1'], 0., found['returns']),
          name + 'advantages': found['advantages']}


def loss(b: types.SimpleNamespace) -> dict[str, torch.Tensor]:
  """Policy and critic, and their gradients."""
  place = torch.arange(b.mask.shape[1])
  new = b.new_log_probs.clone().requires_grad_()
  values = b.new_values.clone().requires_grad_()
  found = cutting.run(
      LOSS, TRAIN, args=settings_of('k1'), micro_batch_inds=slice(None),
      vpred=values, mb_values=b.values, mb_return=b.returns,
      new_logprobs=new, mb_logprobs=b.log_probs, mb_advantage=b.gains,
      padding_mask=place > (b.lengths - 1)[:, None],
      padding_mask_p1=place > b.lengths[:, None])
  found['loss'].backward()
  return {'loss': found['loss'].detach(), 'loss/log_probs': new.grad,
          'loss/values': values.grad}


def answers(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  found = {}
  for i in range(len(arrays['mask'])):
    b = types.SimpleNamespace(**{
        name: torch.tensor(x[i]) for name, x in arrays.items()})
    for name, x in (credit(b, 'k1') | credit(b, 'k3') | loss(b)).items():
      found.setdefault(name, []).append(x.numpy())
  return {name: np.stack(x) for name, x in found.items()}


if __name__ == '__main__':
  torch.set_num_threads(1)
  with np.load(sys.argv[1]) as given:
    np.savez(sys.argv[2], **answers(dict(given)))
