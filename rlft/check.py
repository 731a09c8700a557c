"""What is wrong with a config is said here, before any work is done.

Every section is bound as a run would bind it, and tried on as little as shows
that it works; no weights are trained and no directory is made. Each function
raises ValueError with one line that says what to do.
"""
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from rlft import (
  arms,
  binding,
  envs,
  observe,
  parts,
  presets,
  rows,
  tokenizer,
  weights,
)
from rlft import config as door
from rlft.adapters import lora
from rlft.ops import alarms, sharding
from rlft.types import Batch, Outputs, Rollout

Known = Mapping[str, Any]  # earlier stages: name -> config


def run(config: ml_collections.ConfigDict, known: Known | None = None) -> None:
  """A run; the checkpoints of `known` stages are yet to be made."""
  refuse_peak(config.init)
  binding.build_mesh(config)
  for name in (config.init, config.base):
    if name:
      same_model(config, name, made_with(name, known or {}))
  binding.marks(config.evaluate, config.num_steps)
  binding.marks(config.checkpoint, config.num_steps)
  words = tokenizer.load(config.tokenizer, **config.get('chat', {}))
  rows.split(config, len(sharding.devices()))
  family, model = binding.build_model(config.model, words)
  shapes = jax.eval_shape(
      lambda k: family.initialise(model, k), jax.random.key(0))
  with parts.named('config.lora'):
    jax.eval_shape(
        functools.partial(lora.attach, **config.lora.to_dict()),
        {'policy': shapes}, jax.random.key(0))
  source = binding.build_source(config, model, words, {})
  binding.build_update(config, model)
  section = config.experience
  rescored = section.get('rescore', True)
  if config.objective.get('importance_cap') and not rescored:
    raise ValueError(
        'objective.importance_cap corrects for what experience.rescore=False '
        'does not know: take one of them')
  binding.build_evaluations(config, model, words, base={})
  decoding(config)
  for analysis in binding.build_analyses(config):
    observe.rehearse(analysis, shapes)
  limits(config, objective(config))
  if not binding.is_online(config):
    source.next(source.init(), None, {}, jax.random.key(0))
  elif config.env:
    task = envs.bind(**config.env.to_dict()).sample(np.random.default_rng(0))
    room(len(words.opening(task.prompt)), section)


def room(prompt: int, section: ml_collections.ConfigDict) -> None:
  """That a prompt of so many tokens leaves room for a completion."""
  length, given = section.get('length'), section.get('prompt_length', 0)
  if length is not None and max(prompt, given) >= length:
    raise ValueError(
        f'experience.length is {length}, but a prompt alone has '
        f'{max(prompt, given)} tokens: raise it')


def decoding(config: ml_collections.ConfigDict) -> None:
  """That something samples under the section of this name."""
  if config.decoding and not binding.is_online(config) and not any(
      'decoding' not in e and e.get('temperature')
      for e in config.evals.values()):
    raise ValueError(
        'nothing reads config.decoding: there are no rollouts, and every '
        'evaluation is greedy or has its own; leave it empty')


def limits(config: ml_collections.ConfigDict, seen: set[str]) -> None:
  """That what has a limit is measured; `seen` is what an update tells."""
  has = seen & set(alarms.LIMITS.values())
  if binding.is_online(config):
    section = config.experience
    has |= {'empty', 'truncated'}
    has |= {'zero_spread'} if section.get('group', 1) > 1 else set()
    # without processes of its own one that fails ends the run
    has |= {'unjudged'} if section.get('verifiers') is not None else set()
  odd = [k for k, name in alarms.LIMITS.items()
         if config.limits.get(k) and name not in has]
  if odd:
    known = ['skipped', *(k for k, name in alarms.LIMITS.items()
                          if name in has)]
    raise ValueError(
        f'nothing reads config.limits.{odd[0]}: this run measures no '
        f'{alarms.LIMITS[odd[0]]}; set it to 0 (it has {", ".join(known)})')


def objective(config: ml_collections.ConfigDict) -> set[str]:
  """The loss on one row, and that there is a critic if it reads one.

  The names of its metrics.
  """
  name = config.objective.name
  assign = parts.bind(
      'objectives', 'advantages', name, **config.advantages.to_dict()
  ) if binding.is_online(config) else None
  critic, seen = rehearse(parts.bind(
      'objectives', 'loss', **config.objective.to_dict()), assign)
  if assign and compares(assign) and config.experience.get('group', 1) == 1:
    raise ValueError(
        f'{name} compares the completions of a prompt, and experience.group is '
        '1: set it to 2 or more')
  if critic != config.critic:
    reads = 'reads the values of a' if critic else 'reads no'
    raise ValueError(f'the objective {name} {reads} critic: set '
                     f'config.critic={critic}')
  for key, value in config.optimizer.items():
    if key.startswith('critic_') and value is not None and not critic:
      raise ValueError(f'nothing reads config.optimizer.{key}: {name} has no '
                       'critic; set it to None')
  return seen


def analysis(
    config: ml_collections.ConfigDict, known: Known | None = None) -> None:
  """An analysis; `known` as above."""
  section = {'name': '', **config.analysis.to_dict()}
  name = section['name']
  sweeps = hasattr(parts.load('analyses', name), 'edits')
  parts.bind('analyses', 'edits' if sweeps else 'analyse', **section)
  if not sweeps:
    door.known_keys(config, door.TABLE, f'section of the analysis {name}')
  binding.build_mesh(config)
  where = config.get('checkpoints', {})
  if sorted(where.keys()) != ['after', 'before']:
    raise ValueError('config.checkpoints names two: before and after')
  made = {role: made_with(where[role], known or {})
          for role in ('before', 'after')}
  if not sweeps:
    same_model(made['before'], where.after, made['after'],
               'compare checkpoints of one model')
    return
  for role in where:
    same_model(config, where[role], made[role])
  words = tokenizer.load(config.tokenizer, **config.get('chat', {}))
  family, model = binding.build_model(config.model, words)
  like = jax.eval_shape(
      lambda k: family.initialise(model, k), jax.random.key(0))
  parts.bind('analyses', 'check', **section)(like)
  binding.build_evaluations(config, model, words, base={})


def study(config: ml_collections.ConfigDict) -> None:
  """The first stage that could not start; a comparison that is none."""
  known = {}  # stages so far: nothing starts from a later one
  sound = set()
  for name in config.order:
    section = config.stages[name].config
    but_seed = str({**section.to_dict(), 'seed': 0})
    try:
      if but_seed not in sound:
        (analysis if 'analysis' in section else run)(section, known)
    except ValueError as error:
      raise ValueError(f'stage {name}: {error}') from error
    sound.add(but_seed)
    known[name] = section
  arms.check(config)


def made_with(name: str, known: Known) -> Any:
  """The config a checkpoint was, or will be, made with; else ValueError."""
  stage, _, step = name.rpartition('@')
  if stage not in known:
    weights.verify(name)
    return weights.config_of(name)
  section = known[stage]
  if 'analysis' in section:
    raise ValueError(f'stage {stage} is an analysis: it saves no checkpoints')
  saved = sorted(binding.marks(section.checkpoint, section.num_steps))
  saved = saved[-section.checkpoint.keep:]  # all, if keep is 0
  names = {*map(str, saved), 'last'}
  if binding.marks(section.evaluate, section.num_steps) <= set(saved) and (
      'ood' in section.evals):
    names.add('best_ood')
  if step not in names:
    raise ValueError(f'stage {stage} saves no step {step}; it saves '
                     f'{", ".join(sorted(names))}')
  return section


def refuse_peak(init: str) -> None:
  """A run that would start from a step chosen by OOD success."""
  if init.endswith('@best_ood'):
    raise ValueError(
        'a run may not start from @best_ood: the start must be fixed '
        'before OOD success is seen')


def same_model(
    config, name: str, made, advice: str = 'set config.{} to its own') -> None:
  """A checkpoint whose config `made` has other words or another size."""
  for section in ('model', 'tokenizer'):
    own, other = config[section], made[section]
    # A dtype is of the computation, not of the weights.
    same = own == other if section == 'tokenizer' else (
        weights_of(own) == weights_of(other))
    if not same:
      raise ValueError(
          f'{name} was made with the {section} {tell(other)}, not with '
          f'{tell(own)}: {advice.format(section)}')


def weights_of(model: Any) -> tuple[str, dict[str, Any]]:
  """The family and the shape of a model section, whichever way it is said."""
  shape = model.get('shape') or presets.shape(model['preset'])
  return model['name'], ml_collections.ConfigDict(shape).to_dict()


def tell(section: Any) -> str:
  """A section of a config on one line."""
  if isinstance(section, str):
    return section
  return ', '.join(
      f'{k}={v!r}' for k, v in dict(section).items()
      if v and k not in ('dtype', 'remat'))


def rehearse(
    loss: Callable, advantages: Callable | None) -> tuple[bool, set[str]]:
  """Computes a loss on one row: whether it reads a critic's values, and the
  names of its metrics.

  Values are NaN here, which is what the loss then is.
  """
  def value():
    number, truth = jnp.zeros((1, 2)), jnp.ones((1, 2), bool)
    tokens, unknown = jnp.zeros((1, 2), jnp.int32), jnp.full((1, 2), jnp.nan)
    batch = Batch(tokens, truth)
    if advantages is not None:
      batch = advantages(Rollout(
          tokens, truth, tokens, number, jnp.zeros(1, jnp.int32), number,
          number, unknown, number, number, jnp.zeros(1, bool)))
    return loss(
        Outputs(number, number, unknown, jnp.zeros((1, 2, 1))), batch)

  found, metrics = jax.jit(value)()  # one program, not one for each step
  return math.isnan(found), set(metrics)


def compares(advantages: Callable) -> bool:
  """Whether nothing is learned from two prompts of one completion each."""
  def largest():
    truth, number = jnp.ones((2, 2), bool), jnp.zeros((2, 2))
    tokens = jnp.arange(4).reshape(2, 2)
    rewards = jnp.array([[0.0, 1e3], [0.0, 2e3]])
    found = advantages(Rollout(
        tokens, truth, jnp.zeros_like(tokens), rewards, jnp.arange(2), number,
        number, number, jnp.ones((2, 2)), number, jnp.zeros(2, bool)))
    return jnp.abs(found.advantages).max()

  return float(jax.jit(largest)()) == 0.0
