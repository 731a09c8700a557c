"""The loop: one for every method.

A run is a config and a directory. The config is read here and nowhere below:
each section is bound to the function of the part that it names.
"""
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from rlft import envs, evaluate, parts, policy, tokenizer, weights
from rlft.training import checkpoint, metrics, optimizer, progress, steps
from rlft.types import Source, TrainState

TOLERANCE = {'float32': (1e-4, 1e-4), 'bfloat16': (0.02, 0.5)}  # mean, largest


class Job(NamedTuple):
  """A config bound to functions and arrays."""
  state: TrainState
  source: Source
  update: Callable
  evaluations: Sequence[evaluate.Evaluation]
  online: bool


def build(config: ml_collections.ConfigDict) -> Job:
  """Binds every section; raises ValueError on what does not fit together."""
  words = tokenizer.load(config.tokenizer)
  family, model = build_model(config.model, words)
  key = jax.random.key(config.seed)
  like = jax.eval_shape(lambda k: family.initialise(model, k), key)
  if config.init:
    policy_params = weights.match(
        weights.load(config.init)['policy'], like, config.init)
  else:
    policy_params = family.initialise(model, steps.stream(key, 'init', 0))
  params = jax.tree.map(jnp.array, {'policy': policy_params})
  objective = config.objective.to_dict()
  online = hasattr(parts.load('objectives', objective['name']), 'advantages')
  if config.critic:
    params['critic'] = policy.make_critic(params['policy'])
  passes = config.passes.to_dict()
  optimizer_steps = config.num_steps * int(np.prod(list(passes.values())))
  tx = parts.fill(
      optimizer.make, 'optimizer', **config.optimizer.to_dict())(
          num_steps=optimizer_steps)
  state = TrainState(
      jnp.zeros((), jnp.int32), params, jax.jit(tx.init)(params), key)
  temperature = config.experience.get('temperature', 1.0)
  forward = functools.partial(policy.forward, model, temperature=temperature)
  step = functools.partial(
      steps.minibatch_epochs if passes else steps.gradient_step,
      forward=forward, tx=tx, loss=parts.bind('objectives', 'loss',
                                              **objective), **passes)
  context = dict(tokenizer=words)
  if online:
    context |= dict(
        model=model, forward=forward, ref_params=jax.tree.map(
            jnp.copy, {'policy': params['policy']}),
        advantages=parts.bind(
            'objectives', 'advantages', name=objective['name'],
            **config.advantages.to_dict()))
  source = parts.bind(
      'experience', 'make', **config.experience.to_dict(), **context)(
          envs.bind(**config.env.to_dict()) if config.env else None)
  return Job(state, source, jax.jit(step, donate_argnums=0),
             build_evaluations(config, model, words), online)


def build_model(section, words: tokenizer.Tokenizer) -> tuple[Any, Any]:
  """The family's module and a model of the section's size."""
  section = section.to_dict()
  family = parts.load('models', section['name'])
  make = parts.bind('models', 'make', **section)
  return family, make(vocabulary=words.vocabulary)


def build_evaluations(config, model, words) -> list[evaluate.Evaluation]:
  """The section `evals`, in its order."""
  base = None
  name = config.base or config.init
  if name and any(e.get('kl') for e in config.evals.values()):
    base = jax.tree.map(jnp.asarray, weights.load(name))
  return [
      parts.fill(evaluate.make, f'evals.{name}', **e.to_dict())(
          name, model, words, base_params=base)
      for name, e in config.evals.items()]


def check(config: ml_collections.ConfigDict, known=()) -> None:
  """ValueError for what can be seen before any work; `known` are stages."""
  for name in (config.init, config.base):
    if name and name.rpartition('@')[0] not in known:
      weights.config_of(name)
  tokenizer.load(config.tokenizer)
  parts.load('objectives', config.objective.get('name', ''))
  parts.load('experience', config.experience.get('name', ''))
  marks(config.evaluate, config.num_steps)
  marks(config.checkpoint, config.num_steps)
  for section in [config.env, *(e.env for e in config.evals.values())]:
    if section:
      envs.bind(**section.to_dict()).sample(np.random.default_rng(0))


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


def loop(config, run_dir, job, manager, state, source_state) -> TrainState:
  """source.next, update, log, evaluate, save."""
  start = int(state.step)
  counter = metrics.Compilations()
  writer = metrics.open_writer(run_dir, start)
  metrics.truncate(run_dir / 'evals.jsonl', start)
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
    if (step + 1) % config.log.every == 0 or step == 0:
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
  every = section.every
  return listed | {0, last} | set(range(0, last, every) if every else ())


def check_start(data: dict, seen: dict, dtype: str) -> None:
  """At step 0: KL(policy, reference) = 0, ratio = 1, sampler = trainer.

  Raises ValueError beyond the tolerance of the dtype: every number that
  follows would be wrong, so the run does not begin.
  """
  mean, largest = TOLERANCE[dtype]
  gaps = {
      'the sampler and the trainer disagree on log-probs':
          (data['sampler_gap_mean'], data['sampler_gap']),
      'the policy is not its reference':
          (abs(data['kl_k1']), data['reference_gap']),
      'the first ratio is not 1':
          (abs(float(seen['first_ratio_max']) - 1),) * 2,
  }
  for what, (average, top) in gaps.items():
    if not (average <= mean and top <= largest):
      raise ValueError(
          f'{what} at step 0: mean {average:.2e}, largest {top:.2e}, '
          f'allowed {mean:g} and {largest:g} in {dtype}')
