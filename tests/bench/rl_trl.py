"""A step of TRL's GRPO (1.16.0) and PPO (1.12.0, the last): see `rl.py`.

Runs in an environment of TRL's own. Its own trainers and loops, float32, fused
AdamW, attention `sdpa`, no dropout, no checkpointed gradients, nothing logged
or saved. Lengths: GRPO asks for `min_new_tokens`, PPO has no stop token.
"""
import pathlib
import types

import datasets
import torch
import transformers

from tests.bench import rl_task

COMMON = dict(
    use_cpu=True, bf16=False, report_to='none', save_strategy='no',
    logging_strategy='no', disable_tqdm=True, gradient_checkpointing=False,
    dataloader_pin_memory=False, learning_rate=rl_task.RATE,
    lr_scheduler_type='constant', optim='adamw_torch_fused', max_grad_norm=1.0,
    weight_decay=0.0, adam_beta1=0.9, adam_beta2=0.95)


class Steps(transformers.TrainerCallback):
  """Tells the clock when all minibatches of a rollout are done."""

  def __init__(self, clock, every: int):
    self.clock, self.every = clock, every

  def on_step_end(self, args, state, control, **_):
    if state.global_step % self.every == 0:
      self.clock.step()


def load(kind: str, folder: pathlib.Path, **options):
  return getattr(transformers, kind).from_pretrained(
      folder, dtype=torch.float32, attn_implementation='sdpa', **options)


def timed(owner, name: str, clock, phase: str) -> None:
  """Books calls of owner.name on a phase, and what was before on `update`."""
  whole = getattr(owner, name)

  def call(*args, **kwargs):
    clock.lap('update')
    found = whole(*args, **kwargs)
    clock.lap(phase)
    return found

  setattr(owner, name, call)


def grpo(shape: str, folder: pathlib.Path, steps: int, clock) -> None:
  import trl
  texts = rl_task.prompts(shape, rl_task.ROWS // rl_task.GROUP)
  trainer = trl.GRPOTrainer(
      model=load('LlamaForCausalLM', folder),
      reward_funcs=lambda completions, **_: [
          rl_task.reward(text) for text in completions],
      args=trl.GRPOConfig(
          output_dir=str(folder / 'trl'), **COMMON, disable_dropout=True,
          per_device_train_batch_size=rl_task.ROWS // rl_task.MINIBATCHES,
          steps_per_generation=rl_task.MINIBATCHES, num_iterations=1,
          max_steps=steps * rl_task.MINIBATCHES,
          num_generations=rl_task.GROUP, max_completion_length=rl_task.NEW,
          generation_kwargs=dict(min_new_tokens=rl_task.NEW),
          temperature=1.0, beta=rl_task.GRPO_KL, loss_type='grpo',
          use_bias_correction_kl=False, shuffle_dataset=False,
          log_completions=False),
      train_dataset=datasets.Dataset.from_dict({'prompt': texts}),
      processing_class=rl_task.fast(folder),
      callbacks=[Steps(clock, rl_task.MINIBATCHES)])
  timed(trainer, '_generate_and_score_completions', clock, 'score')
  whole = trainer._generate

  def generate(*args):
    found = whole(*args)
    clock.lap('rollout')
    return found

  trainer._generate = generate
  trainer.train()


class Even(torch.nn.Module):
  """The share of even tokens, as a reward model of TRL's PPO."""
  base_model_prefix = 'body'

  def body(self, input_ids, **_):
    return types.SimpleNamespace(hidden_states=[input_ids])

  def score(self, tokens):
    even = (tokens[:, rl_task.PROMPT:] % 2 == 0).float().mean(1)
    return even[:, None, None].expand(*tokens.shape, 1)


def ppo(shape: str, folder: pathlib.Path, steps: int, clock) -> None:
  from trl.experimental import ppo as of
  from trl.experimental.ppo import ppo_trainer
  words = rl_task.fast(folder)
  texts = rl_task.prompts(shape, rl_task.ROWS)
  rows = rl_task.ROWS // rl_task.MINIBATCHES
  trainer = of.PPOTrainer(
      args=of.PPOConfig(
          output_dir=str(folder / 'trl'), **COMMON,
          per_device_train_batch_size=rows,
          gradient_accumulation_steps=rl_task.MINIBATCHES,
          num_mini_batches=rl_task.MINIBATCHES, num_ppo_epochs=1,
          total_episodes=steps * rl_task.ROWS, num_sample_generations=0,
          local_rollout_forward_batch_size=rl_task.ROWS,
          response_length=rl_task.NEW, temperature=1.0,
          kl_coef=rl_task.PPO_KL),
      processing_class=words, model=load('LlamaForCausalLM', folder),
      ref_model=load('LlamaForCausalLM', folder), reward_model=Even(),
      value_model=load(
          'LlamaForSequenceClassification', folder, num_labels=1),
      train_dataset=datasets.Dataset.from_dict(
          {'input_ids': [words(text)['input_ids'] for text in texts]}),
      callbacks=[Steps(clock, 1)])
  # its loop would step once for all minibatches
  trainer.accelerator.gradient_accumulation_steps = 1
  timed(ppo_trainer, 'batch_generation', clock, 'rollout')
  whole = ppo_trainer.masked_whiten

  def whiten(*args, **kwargs):  # the last thing before the update
    found = whole(*args, **kwargs)
    clock.lap('score')
    return found

  ppo_trainer.masked_whiten = whiten
  trainer.train()


def log_prob(shape: str, folder: pathlib.Path) -> float:
  """Mean over the completions of the probe."""
  tokens = torch.tensor(rl_task.probe(shape))
  with torch.no_grad():
    logits = load('LlamaForCausalLM', folder)(tokens).logits[:, :-1]
  found = torch.log_softmax(logits, -1).gather(-1, tokens[:, 1:, None])
  return float(found[:, rl_task.PROMPT - 1:].mean())


def run(algorithm: str, shape: str, folder: pathlib.Path, steps: int, clock
        ) -> float:
  """Makes the steps; what the probe's log-prob is."""
  torch.set_num_threads(2)
  torch.manual_seed(0)
  {'grpo': grpo, 'ppo': ppo}[algorithm](shape, folder, steps, clock)
  return log_prob(shape, folder)
