"""A config bound to functions and arrays: the door, below which none is read.

Each section is bound to the function of the part that it names.
"""
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from rlft import (
    decoding,
    envs,
    evaluate,
    observe,
    parts,
    policy,
    rows,
    tokenizer,
    weights,
)
from rlft.adapters import lora, value_head
from rlft.ops import modules, sharding, trees
from rlft.training import optimizer, steps
from rlft.types import Source, TrainState


class Job(NamedTuple):
  """A config bound to functions and arrays."""
  state: TrainState
  source: Source
  update: Callable
  evaluations: Sequence[evaluate.Evaluation]
  analyses: Sequence[observe.Analysis]
  online: bool
  probe: Callable  # (params, batch) -> the objective's metrics, no update
  reference: Any = None  # the frozen policy that a KL is measured from


def build(config: ml_collections.ConfigDict) -> Job:
  """Binds every section; raises ValueError on what does not fit together."""
  words = tokenizer.load(config.tokenizer, **config.get('chat', {}))
  model, params = build_params(config, words)
  update, tx, probe = build_update(config, model)
  ref_params = {} if not is_online(config) else trees.copied(modules.cast(
      {'policy': lora.merge(params)['policy']}, model.dtype))
  source = build_source(config, model, words, ref_params)
  state = TrainState(
      jnp.zeros((), jnp.int32), params,
      jax.jit(lambda params: sharding.parameters(tx.init(params)))(params),
      jax.random.key(config.seed))
  return Job(state, source, update, build_evaluations(config, model, words),
             build_analyses(config), is_online(config), probe, ref_params)


def build_mesh(config) -> Any:
  """The section `mesh` over the devices there are; None for one device."""
  return parts.fill(sharding.make, 'config.mesh', **config.get('mesh', {}))()


def is_online(config) -> bool:
  """Whether the objective learns from what its own policy samples."""
  name = config['objective'].get('name', '')
  return hasattr(parts.load('objectives', name), 'advantages')


def build_source(config, model, words, ref_params) -> Source:
  """The section `experience`, in the environment of `env`."""
  context = dict(tokenizer=words)
  if is_online(config):
    context |= dict(
        model=model, ref_params=ref_params,
        decoding=decoding.read(config, 'config'), advantages=parts.bind(
            'objectives', 'advantages', name=config.objective.name,
            **config.advantages.to_dict()))
  elif config.advantages:
    raise ValueError(
        f'nothing reads the section advantages: {config.objective.name} '
        'has none')
  section = {'name': '', **config.experience.to_dict()}
  refuse('experience', section, (*context, 'seed'))
  make = parts.bind('experience', 'make', **section, **context)
  if 'seed' in inspect.signature(make).parameters:
    make = functools.partial(make, seed=config.seed)
  make = complete(make, 'experience')
  takes_env = 'env' in inspect.signature(make).parameters
  if takes_env != bool(config.env):
    raise ValueError(
        f'the experience {section["name"]} plays in config.env: set it'
        if takes_env else 'nothing reads config.env: the experience '
        f'{section["name"]} has environments of its own; leave it empty')
  if not takes_env:
    return make()
  with parts.named('config.env'):
    env = envs.bind(**config.env.to_dict())
  return make(env)


def build_update(config, model) -> tuple[Callable, Any, Callable]:
  """The sections `objective`, `passes` and `optimizer`."""
  section = config.experience
  return compile_update(
      model, section.get('temperature', 1.0), config.num_steps,
      *(tuple(config[section].items())
        for section in ('objective', 'passes', 'optimizer')),
      **rows.shared(section))


def refuse(
    where: str, section: Iterable[str], given: Iterable[str]) -> None:
  """ValueError for keys of a section that the run sets itself."""
  for key in sorted(set(section) & set(given)):
    raise ValueError(f'config.{where}.{key} follows from the rest of the '
                     'config: leave it out')


def complete(function: Callable, where: str) -> Callable:
  """`function`, if no keyword that it needs is missing; else ValueError."""
  missing = [
      p.name for p in inspect.signature(function).parameters.values()
      if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
  if missing:
    raise ValueError(f'{where} needs {", ".join(missing)}')
  return function


def build_params(config, words: tokenizer.Tokenizer) -> tuple[Any, Any]:
  """The model, and {'policy', maybe 'critic'} from `init` or fresh."""
  family, model = build_model(config.model, words)
  key = jax.random.key(config.seed)
  if config.init:
    like = jax.eval_shape(lambda k: family.initialise(model, k), key)
    found = weights.match(
        weights.load(config.init)['policy'], like, config.init)
  else:
    found = family.initialise(model, steps.stream(key, 'init', 0))
  return model, sharding.placed(
      accompanied(config, sharding.placed(found), key))


def accompanied(config, policy: Any, key: Any) -> dict[str, Any]:
  """{'policy'} with what else is trained: a critic, adapters."""
  params = {'policy': policy}
  if config.critic:
    params['critic'] = value_head.make(policy)
  with parts.named('config.lora'):
    return lora.attach(
        params, steps.stream(key, 'init', 1), **config.lora.to_dict())


def state_shapes(config, family: Any, model: Any, tx: Any) -> TrainState:
  """The train state that a run begins with, as shapes: nothing is computed."""
  def make(key):
    params = accompanied(config, family.initialise(model, key), key)
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), key)

  return jax.eval_shape(make, jax.random.key(0))


@functools.lru_cache  # runs of a study that differ in their start share it
def compile_update(
    model: Any, temperature: float, num_steps: int, objective: tuple,
    passes: tuple, settings: tuple, prompt: int = 0, group: int = 1,
) -> tuple[Callable, Any, Callable]:
  """The jitted update, its state donated; its optimizer; its loss alone."""
  passes = dict(passes)
  refuse('passes', passes, ('group',))
  several = {'epochs', 'minibatches'} & set(passes)
  tx = build_optimizer(
      **dict(settings),
      num_steps=num_steps * math.prod(passes[k] for k in several))
  forward = functools.partial(
      policy.forward, model, temperature=temperature, prompt=prompt,
      group=group)
  loss = parts.bind('objectives', 'loss', **dict(objective))
  step = complete(parts.fill(
      steps.minibatch_epochs if several else steps.gradient_step, 'passes',
      tx=tx, forward=forward, loss=loss, group=group, **passes), 'passes')
  probe = jax.jit(
      lambda params, batch: loss(forward(params, batch.tokens), batch)[1])

  def update(state, batch):
    state, seen = step(state, batch)
    return state, seen | {
        'masked_rows': jnp.sum(~jnp.any(batch.mask, axis=1))}

  return jax.jit(update, donate_argnums=0), tx, probe


def build_optimizer(*, name: str = 'adamw', **settings: Any) -> Any:
  """The section `optimizer`: settings of scale() of rlft/optimizers/NAME.py,
  and of training.optimizer, which makes groups of it.

  ValueError for a setting that neither takes, and for one that is missing.
  """
  scale = parts.load('optimizers', name).scale
  known = {**inspect.signature(optimizer.make).parameters,
           **inspect.signature(scale).parameters}
  known.pop('scale')
  unknown = sorted(set(settings) - set(known))
  if unknown:
    raise ValueError(f'optimizer takes no {unknown[0]}; known of {name}: '
                     f'{", ".join(k for k in known if k != "num_steps")}')
  its = {k: settings.pop(k) for k in inspect.signature(scale).parameters
         if k in settings}
  scale = parts.fill(scale, 'optimizer', **its)()
  return complete(parts.fill(
      optimizer.make, 'optimizer', **settings, scale=scale), 'optimizer')()


def build_model(section, words: tokenizer.Tokenizer) -> tuple[Any, Any]:
  """The family's module and a model of the section's size."""
  section = section.to_dict()
  family = parts.load('models', section['name'])
  given = dict(vocabulary=words.vocabulary, pad=words.pad, bos=words.bos)
  refuse('model', section, given)
  return family, parts.bind('models', 'make', **section)(**given)


def build_evaluations(
    config, model, words, base: Any = None) -> list[evaluate.Evaluation]:
  """The section `evals`, in its order."""
  origin = config.base or config.init
  wanted = [k for k, e in config.evals.items()
            if e.get('kl') or e.get('kl_fixed')]
  if wanted and not origin:
    raise ValueError(
        f'evals.{wanted[0]} measures kl, but from what? Set base or init')
  if wanted and base is None:
    base = sharding.placed(weights.load(origin))
  shared = dict(decoding.read(config, 'config'))
  made = []
  for name, e in config.evals.items():
    where = f'evals.{name}'
    refuse(where, e, ('name', 'model', 'tokenizer', 'base_params'))
    options = e.to_dict()
    if options.get('temperature'):  # greedy ones need no rule
      options.setdefault('decoding', shared)
    options['decoding'] = decoding.read(options, f'config.{where}')
    make = complete(parts.fill(evaluate.make, where, **options), where)
    with parts.named(f'config.{where}'):
      made.append(make(name, model, words, base_params=base))
  return made


def build_analyses(config) -> list[observe.Analysis]:
  """The section `analyses`; `every` and `steps` as elsewhere, but never 0."""
  found = []
  for name, section in config.analyses.items():
    if not isinstance(section, ml_collections.ConfigDict):
      raise ValueError(
          f'analyses.{name} is {section!r}: write dict(every=100)')
    options = {'steps': (), 'every': 0, **section.to_dict()}
    when = ml_collections.ConfigDict(
        {key: options.pop(key) for key in ('steps', 'every')})
    found.append(
        observe.bind(name, marks(when, config.num_steps), **options))
  return found


def marks(section, last: int) -> set[int]:
  """Steps at which something is due: listed, every n-th, first and last."""
  odd = [s for s in section.steps if type(s) is not int]
  if odd:
    raise ValueError(f'a step is {odd[0]!r}: give whole numbers')
  listed = set(section.steps)
  if listed and max(listed) > last:
    raise ValueError(f'step {max(listed)} is beyond num_steps {last}')
  if listed and min(listed) < 0:
    raise ValueError(f'step {min(listed)} is before the first, 0')
  every = section.every
  return listed | {0, last} | set(range(0, last, every) if every else ())
