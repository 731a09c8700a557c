"""What is wrong with a config is said here, before any work is done.

Every section is bound as a run would bind it, and tried on as little as shows
that it works; no weights are trained and no directory is made. Each function
raises ValueError with one line that says what to do.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from rlft import envs, observe, parts, tokenizer, train, weights
from rlft.types import Batch, Outputs, Rollout


def run(config: ml_collections.ConfigDict, known=()) -> None:
  """A run; `known` are earlier stages, whose checkpoints are yet to be made."""
  refuse_peak(config.init)
  for name in (config.init, config.base):
    if name and name.rpartition('@')[0] not in known:
      weights.verify(name)
      same_model(config, name, weights.config_of(name))
  train.marks(config.evaluate, config.num_steps)
  train.marks(config.checkpoint, config.num_steps)
  words = tokenizer.load(config.tokenizer)
  family, model = train.build_model(config.model, words)
  shapes = jax.eval_shape(
      lambda k: family.initialise(model, k), jax.random.key(0))
  source = train.build_source(config, model, words, {})
  train.build_update(config, model)
  section = config.experience
  rows = section.get('rows') or section.prompts * section.get('group', 1)
  if rows % config.passes.get('minibatches', 1):
    raise ValueError(
        f'{rows} rows of experience do not split into '
        f'{config.passes.minibatches} minibatches')
  train.build_evaluations(config, model, words, base={})
  for analysis in train.build_analyses(config):
    observe.rehearse(analysis, shapes)
  online = train.is_online(config)
  rehearse(parts.bind('objectives', 'loss', **config.objective.to_dict()),
           parts.bind('objectives', 'advantages', config.objective.name,
                      **config.advantages.to_dict()) if online else None)
  if not online:
    source.next(source.init(), None, {}, jax.random.key(0))
  elif config.env:
    envs.bind(**config.env.to_dict()).sample(np.random.default_rng(0))


def analysis(config: ml_collections.ConfigDict, known=()) -> None:
  """An analysis; `known` as above."""
  section = {'name': '', **config.analysis.to_dict()}
  module = parts.load('analyses', section['name'])
  sweeps = hasattr(module, 'edits')
  parts.bind('analyses', 'edits' if sweeps else 'analyse', **section)
  for role in ('before', 'after'):
    name = config.checkpoints.get(role, '')
    if name.rpartition('@')[0] not in known:
      weights.verify(name)
  if sweeps:
    words = tokenizer.load(config.tokenizer)
    _, model = train.build_model(config.model, words)
    train.build_evaluations(config, model, words, base={})


def study(config: ml_collections.ConfigDict) -> None:
  """The first stage that could not start, before any does."""
  saved = {}  # steps of the stages so far: nothing starts from a later one
  for name in config.order:
    section = config.stages[name].config
    try:
      if 'analysis' in section:
        analysis(section, known=saved)
        references(config, section.checkpoints.values(), saved)
      else:
        run(section, known=saved)
        references(config, (section.init, section.base), saved, section)
        steps = train.marks(section.checkpoint, section.num_steps)
        saved[name] = {*map(str, steps), 'last', 'best_ood'}
    except ValueError as error:
      raise ValueError(f'stage {name}: {error}') from error


def references(config, names, saved: dict, section=None) -> None:
  """Checkpoints of other stages: saved, and of the section's own model."""
  for name in names:
    stage, _, step = name.rpartition('@')
    if stage not in saved:
      continue
    if step not in saved[stage]:
      raise ValueError(f'stage {stage} saves no step {step}; it saves '
                       f'{", ".join(sorted(saved[stage]))}')
    if section is not None:
      same_model(section, name, config.stages[stage].config)


def refuse_peak(init: str) -> None:
  """A run that would start from a step chosen by OOD success."""
  if init.endswith('@best_ood'):
    raise ValueError(
        'a run may not start from @best_ood: the start must be fixed '
        'before OOD success is seen')


def same_model(config, name: str, made) -> None:
  """A checkpoint whose config `made` has other words or another size."""
  for section in ('model', 'tokenizer'):
    own, other = config[section], made[section]
    if section == 'model':  # a dtype is of the computation, not of the weights
      own, other = ({k: v for k, v in x.items() if k != 'dtype'}
                    for x in (own, other))
    if own != other:
      raise ValueError(
          f'{name} was made with the {section} {other}, not with {own}: set '
          f'config.{section} to its own')


def rehearse(loss: Callable, advantages: Callable | None) -> None:
  """A loss, computed on one row."""
  number, truth = jnp.zeros((1, 2)), jnp.ones((1, 2), bool)
  tokens = jnp.zeros((1, 2), jnp.int32)
  batch = Batch(tokens, truth)
  if advantages is not None:
    batch = advantages(Rollout(
        tokens, truth, tokens, number, jnp.zeros(1, jnp.int32), number, number,
        number))
  loss(Outputs(number, number, number, jnp.zeros((1, 2, 1))), batch)
