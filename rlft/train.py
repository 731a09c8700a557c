"""The loop: one for every method.

A run is a config and a directory. The config is read here and nowhere below:
each section is bound to the function of the part that it names.
"""
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from rlft import envs, evaluate, observe, parts, policy, tokenizer, weights
from rlft.training import checkpoint, metrics, optimizer, progress, steps
from rlft.types import Source, TrainState

TOLERANCE = {'float32': (1e-4, 1e-4), 'bfloat16': (0.02, 0.5)}  # mean, largest


class Job(NamedTuple):
  """A config bound to functions and arrays."""
  state: TrainState
  source: Source
  update: Callable
  evaluations: Sequence[evaluate.Evaluation]
  analyses: Sequence[observe.Analysis]
  online: bool


def build(config: ml_collections.ConfigDict) -> Job:
  """Binds every section; raises ValueError on what does not fit together."""
  words = tokenizer.load(config.tokenizer)
  model, params = build_params(config, words)
  update, tx = build_update(config, model)
  source = build_source(config, model, words, jax.tree.map(
      jnp.copy, {'policy': params['policy']}))
  state = TrainState(
      jnp.zeros((), jnp.int32), params, jax.jit(tx.init)(params),
      jax.random.key(config.seed))
  return Job(state, source, update, build_evaluations(config, model, words),
             build_analyses(config), is_online(config))


def is_online(config) -> bool:
  """Whether the objective learns from what its own policy samples."""
  name = config.objective.get('name', '')
  return hasattr(parts.load('objectives', name), 'advantages')


def build_source(config, model, words, ref_params) -> Source:
  """The section `experience`, in the environment of `env`."""
  context = dict(tokenizer=words)
  if is_online(config):
    context |= dict(
        model=model, ref_params=ref_params, advantages=parts.bind(
            'objectives', 'advantages', name=config.objective.name,
            **config.advantages.to_dict()))
  elif config.advantages:
    raise ValueError(
        f'nothing reads the section advantages: {config.objective.name} '
        'has none')
  section = {'name': '', **config.experience.to_dict()}
  env = envs.bind(**config.env.to_dict()) if config.env else None
  return complete(
      parts.bind('experience', 'make', **section, **context), 'experience')(env)


def build_update(config, model) -> tuple[Callable, Any]:
  """The sections `objective`, `passes` and `optimizer`."""
  return compile_update(
      model, config.experience.get('temperature', 1.0), config.num_steps,
      *(tuple(config[section].items())
        for section in ('objective', 'passes', 'optimizer')))


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
  params = jax.tree.map(jnp.array, {'policy': found})
  if config.critic:
    params['critic'] = policy.make_critic(params['policy'])
  return model, params


@functools.lru_cache  # runs of a study that differ in their start share it
def compile_update(
    model: Any, temperature: float, num_steps: int, objective: tuple,
    passes: tuple, settings: tuple,
) -> tuple[Callable, Any]:
  """The jitted update, its state donated, and the optimizer it uses."""
  passes = dict(passes)
  tx = complete(parts.fill(
      optimizer.make, 'optimizer', **dict(settings),
      num_steps=num_steps * math.prod(passes.values())), 'optimizer')()
  step = complete(parts.fill(
      steps.minibatch_epochs if passes else steps.gradient_step, 'passes',
      tx=tx, forward=functools.partial(
          policy.forward, model, temperature=temperature),
      loss=parts.bind('objectives', 'loss', **dict(objective)), **passes),
      'passes')
  return jax.jit(step, donate_argnums=0), tx


def build_model(section, words: tokenizer.Tokenizer) -> tuple[Any, Any]:
  """The family's module and a model of the section's size."""
  section = section.to_dict()
  family = parts.load('models', section['name'])
  make = parts.bind('models', 'make', **section)
  return family, make(vocabulary=words.vocabulary)


def build_evaluations(
    config, model, words, base: Any = None) -> list[evaluate.Evaluation]:
  """The section `evals`, in its order."""
  origin = config.base or config.init
  wanted = [k for k, e in config.evals.items() if e.get('kl')]
  if wanted and not origin:
    raise ValueError(
        f'evals.{wanted[0]} measures kl, but from what? Set base or init')
  if wanted and base is None:
    base = jax.tree.map(jnp.asarray, weights.load(origin))
  return [
      complete(
          parts.fill(evaluate.make, f'evals.{name}', **e.to_dict()),
          f'evals.{name}')(name, model, words, base_params=base)
      for name, e in config.evals.items()]


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


def run(config: ml_collections.ConfigDict, run_dir: Path) -> TrainState:
  """Trains to `num_steps`, from the newest checkpoint if there is one."""
  job = build(config)
  keep = config.checkpoint.keep or None
  with checkpoint.open_manager(run_dir, keep=keep) as manager:
    state, source_state = job.state, job.source.init()
    newest = manager.latest_step()
    if newest is not None:
      state, source_state = checkpoint.restore(manager, newest, state)
      progress.say(f'{run_dir}: going on from step {newest}')
    return loop(config, run_dir, job, manager, state, source_state)


def starting_policy(job: Job, manager) -> Any:
  """A copy of the policy at step 0, for the analyses; None without any.

  The run's own checkpoint where it has one already: what `init` names may have
  moved on since this run began.
  """
  if not job.analyses:
    return None
  if 0 in manager.all_steps():
    return checkpoint.restore_params(manager, 0, job.state.params)['policy']
  return jax.tree.map(jnp.copy, job.state.params['policy'])


def loop(config, run_dir, job, manager, state, source_state) -> TrainState:
  """source.next, update, analyse, log, evaluate, save."""
  start = int(state.step)
  counter = metrics.Compilations()
  writer = metrics.open_writer(run_dir, start)
  metrics.truncate(run_dir / 'evals.jsonl', start)
  analyse = observe.recorder(
      run_dir, start, job.analyses, starting_policy(job, manager))
  meta = {'num_steps': config.num_steps}
  seen = {}

  def settle(step):
    due = marks(config.evaluate, config.num_steps)
    if step in due:
      evaluate.record(run_dir, step, job.evaluations, state.params)
    if step in marks(config.checkpoint, config.num_steps):
      checkpoint.save(manager, state, source_state, meta)

  settle(start)
  clock, tokens = metrics.Clock(), 0
  span = range(start, config.num_steps)
  for step in progress.track(
      span, name=run_dir.name, total=config.num_steps, start=start):
    key = steps.stream(state.key, 'rollout' if job.online else 'data', step)
    source_state, batch, data = job.source.next(
        source_state, state.params, seen, key)
    tokens += data['tokens']
    clock.lap('experience')
    state, seen = job.update(state, batch)
    if step == 0 and job.online:
      check_start(data, seen, config.model.get('dtype', 'float32'))
    analysed = analyse(step + 1, state.params['policy'], clock)
    if analysed or (step + 1) % config.log.every == 0 or step == 0:
      seen = jax.device_get(seen)  # waits: updates are dispatched ahead
      clock.lap('update')
      spent = clock.flush()
      busy = spent['experience_seconds'] + spent['update_seconds']
      metrics.write(writer, step + 1, {
          **seen, **data, **spent, 'compilations': counter.count,
          'tokens_per_second': tokens / busy})
      tokens = 0
    clock.lap('update')
    settle(step + 1)
    clock.lap('settle')
  writer.board.close()
  return state


def marks(section, last: int) -> set[int]:
  """Steps at which something is due: listed, every n-th, first and last."""
  listed = {int(s) for s in section.steps}
  if listed and max(listed) > last:
    raise ValueError(f'step {max(listed)} is beyond num_steps {last}')
  if listed and min(listed) < 0:
    raise ValueError(f'step {min(listed)} is before the first, 0')
  every = section.every
  return listed | {0, last} | set(range(0, last, every) if every else ())


def check_start(data: dict, seen: dict, dtype: str) -> None:
  """At step 0: KL(policy, reference) = 0, ratio = 1, sampler = trainer.

  Raises ValueError beyond the tolerance of the dtype: every number that
  follows would be wrong, so the run does not begin.
  """
  mean, largest = TOLERANCE[dtype]

  def first(name, neutral):  # one plain step has no others to tell it from
    return float(seen.get(f'first_{name}', seen.get(name, neutral)))

  gaps = {
      'the sampler and the trainer disagree on log-probs':
          (data['sampler_gap_mean'], data['sampler_gap']),
      'the policy is not its reference':
          (abs(data['kl_k1']), data['reference_gap']),
      'the first ratio is not 1':
          # k3 is half the squared log-ratio, so it sees both directions
          (math.sqrt(2 * first('approx_kl', 0.0)),
           abs(first('ratio_max', 1.0) - 1)),
  }
  for what, (average, top) in gaps.items():
    if not (average <= mean and top <= largest):
      raise ValueError(
          f'{what} at step 0: mean {average:.2e}, largest {top:.2e}, '
          f'allowed {mean:g} and {largest:g} in {dtype}')
