"""What TRL's GRPO and RLOO say: runs in an environment of TRL's own.

    python -m tests.parity.rl.trl_side BATCHES.npz ANSWERS.npz

Its losses are methods of trainers, so trainers are made, of a tiny model that
is never run: log-probabilities are given. Names are those of `ours.py` where
definitions agree; those that begin with `trl:` are of what TRL defines
otherwise.
"""
import sys
import tempfile
import types
from typing import Any

import datasets
import numpy as np
import tokenizers
import torch
import transformers
import trl

from tests.parity.rl import cutting, settings

Numbers = dict[str, torch.Tensor]
GUARD = settings.CLIP['ratio_guard']


class Given:
  """A trainer whose policy says what it is told to."""

  def _get_per_token_logps_and_entropies(self, *_, **__):
    return self.log_probs, self.entropy, None


class Grpo(Given, trl.GRPOTrainer):
  pass


class Rloo(Given, trl.RLOOTrainer):
  pass


def trainer(kind: type, config: type, length: int, folder: str, *,
            beta: float = 0., **hyper: Any) -> transformers.Trainer:
  """One of a tiny model; `beta` is set late, as TRL would load a reference."""
  model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(
      vocab_size=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
      num_attention_heads=1, num_key_value_heads=1))
  words = tokenizers.Tokenizer(tokenizers.models.WordLevel(
      {'a': 0, 'b': 1, 'pad': 2, 'end': 3}, unk_token='a'))
  made = kind(
      model=model, reward_funcs=lambda **_: [],
      args=config(
          output_dir=folder, use_cpu=True, bf16=False, report_to='none',
          beta=0., per_device_train_batch_size=2 * settings.GROUP,
          num_generations=settings.GROUP, max_completion_length=length,
          **hyper),
      train_dataset=datasets.Dataset.from_dict({'prompt': ['a', 'b']}),
      processing_class=transformers.PreTrainedTokenizerFast(
          tokenizer_object=words, pad_token='pad', eos_token='end'))
  made.beta = beta
  made.model.eval()  # a training step's loss is divided by accumulated ones
  return made


def trainers(length: int, folder: str) -> dict[str, transformers.Trainer]:
  """By the names of `ours.py`."""
  clip = dict(epsilon=settings.CLIP['clip'])
  of = lambda config, **hyper: trainer(
      Grpo, trl.GRPOConfig, length, folder, **config, **hyper)
  corrected = clip | dict(delta=GUARD, beta=settings.GRPO['kl_coef'])
  kl = corrected | dict(use_bias_correction_kl=False)
  rows = dict(loss_type='grpo', importance_sampling_level='sequence')
  return {
      'grpo/row_mean': of(kl, loss_type='grpo'),
      'grpo/token_mean': of(kl, loss_type='bnpo'),
      'grpo/constant_length': of(kl, loss_type='dr_grpo'),
      'trl:grpo/corrected': of(corrected, loss_type='grpo'),
      'dr_grpo': of(clip, delta=GUARD, loss_type='dr_grpo'),
      'dapo': of(dict(
          epsilon=settings.DAPO['clip_low'], delta=GUARD,
          epsilon_high=settings.DAPO['clip_high']), loss_type='dapo'),
      'gspo': of(_sides(settings.GSPO), **rows),
      'gspo_wide': of(_sides(settings.GSPO_WIDE), **rows),
      'rloo': trainer(Rloo, trl.RLOOConfig, length, folder,
                      epsilon=settings.RLOO['clip'])}


def _sides(known: dict[str, float]) -> dict[str, float]:
  return dict(epsilon=known['clip_low'], epsilon_high=known['clip_high'])


def loss(made: transformers.Trainer, name: str, b: types.SimpleNamespace
         ) -> Numbers:
  """A trainer's loss and its gradient."""
  made.log_probs = b.new_log_probs.clone().requires_grad_()
  made.entropy = b.entropy
  tokens = torch.zeros_like(b.mask)
  by_rows = name.startswith(('gspo', 'rloo'))
  value = made.compute_loss(made.model, dict(
      prompt_ids=tokens[:, :1], prompt_mask=tokens[:, :1] + 1,
      completion_ids=tokens, completion_mask=b.mask,
      advantages=b.row_gains if by_rows else b.gains,
      old_per_token_logps=b.log_probs, ref_per_token_logps=b.ref_log_probs,
      old_logps=(b.log_probs * b.mask).sum(1),
      num_items_in_batch=b.mask.sum()))
  value.backward()
  for kept in made._metrics.values():  # of every batch, until they are logged
    kept.clear()
  return {name: value.detach(), f'{name}/log_probs': made.log_probs.grad}


def credit(made: dict[str, transformers.Trainer], b: types.SimpleNamespace
           ) -> Numbers:
  """Advantages of rows, whose prompts follow each other."""
  scores = b.rewards.sum(1)
  none = torch.zeros_like(scores, dtype=torch.bool)
  found = {}
  for name, scale in (('trl:grpo/advantages', 'group'),
                      ('dr_grpo/advantages', 'none')):
    made['dr_grpo'].scale_rewards = scale
    found[name] = cutting.run(
        GRPO_CREDIT, trl.GRPOTrainer._generate_and_score_completions,
        self=made['dr_grpo'], rewards_per_func=scores[:, None], device='cpu',
        unscorable_mask=none, num_generations=settings.GROUP)['advantages']
  found['rloo/advantages'] = cutting.run(
      RLOO_CREDIT, trl.RLOOTrainer._generate_and_score_completions,
      self=made['rloo'], rewards=scores,
      num_generations=settings.GROUP)['advantages']
  return {name: x[:, None] * b.mask for name, x in found.items()}


GRPO_CREDIT = cutting.cut(
    trl.GRPOTrainer._generate_and_score_completions,
    "if self.multi_objective_aggregation == 'sum_then_normalize'")
RLOO_CREDIT = cutting.cut(
    trl.RLOOTrainer._generate_and_score_completions,
    'grouped_rewards = rewards.view(', 'advantages = torch.nan_to_num(')


def answers(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  found = {}
  with tempfile.TemporaryDirectory() as folder:
    made = trainers(arrays['mask'].shape[2], folder)
  for i in range(len(arrays['mask'])):
    b = types.SimpleNamespace(**{
        name: torch.tensor(x[i]) for name, x in arrays.items()})
    b.mask = b.mask.long()
    one = credit(made, b)
    for name, of in made.items():
      one |= loss(of, name, b)
    for name, x in one.items():
      found.setdefault(name, []).append(x.numpy())
  return {name: np.stack(x) for name, x in found.items()}


if __name__ == '__main__':
  torch.set_num_threads(1)
  with np.load(sys.argv[1]) as given:
    np.savez(sys.argv[2], **answers(dict(given)))
