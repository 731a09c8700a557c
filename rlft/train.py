"""The loop: one for every method. A run is a config and a directory."""
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections

import rlft
from rlft import binding, evaluate, ledger, observe, pulse, startup
from rlft.adapters import lora
from rlft.binding import Job
from rlft.ops import alarms, sharding, trees
from rlft.training import (
    checkpoint,
    metrics,
    multihost,
    preemption,
    progress,
    saving,
    seal,
    steps,
    store,
    watchdog,
)
from rlft.types import TrainState


def run(config: ml_collections.ConfigDict, run_dir: store.Where) -> TrainState:
  """Trains to `num_steps`, from the newest checkpoint if there is one.

  On all devices of `mesh`, over which arrays are cut as `ops.sharding` says.
  """
  with sharding.over(binding.build_mesh(config)):
    return train(config, run_dir)


@dataclasses.dataclass
class Position:
  """Where a run is: what a checkpoint holds."""
  state: TrainState
  source_state: Any
  fruitless: int = 0  # steps in a row from which nothing could be learned
  resumed: bool = False  # this process took it up from a checkpoint


def train(
    config: ml_collections.ConfigDict, run_dir: store.Where) -> TrainState:
  """`run`, on whatever devices there are."""
  job = binding.build(config)
  if not seal.steps(run_dir) and config.num_steps:
    begin(job, config.model.get('dtype', 'float32'))
  with checkpoint.open_manager(run_dir) as manager:
    at = Position(job.state, job.source.init())
    found = checkpoint.restore_latest(manager, at.state)
    if found is not None:
      meta = seal.sealed(run_dir, int(found[0].step))['meta']
      # older checkpoints did not count them
      at = Position(*found, meta.get('fruitless', 0), resumed=True)
      same_reference(config, job, meta)
      step, end = int(at.state.step), config.num_steps
      progress.say(f'{run_dir}: ' + (
          f'going on from step {step}' if step < end else
          f'there is nothing left to do, step {step} is the last'))
    with preemption.heeded(), watchdog.watching() as settled:
      return loop(config, run_dir, job, manager, at, settled)


def begin(job: Job, dtype: str) -> None:
  """Checks the first batch, before anything is saved or updated.

  It is a pure function of its key: the loop makes it again.
  """
  state = job.state
  _, batch, data = draw(job, job.source.init(), state, {}, 0)
  jax.eval_shape(job.update, state, batch)  # rows that do not split, say
  if job.online:
    startup.check(data, job.probe(state.params, batch), dtype)


def reference_mark(config, job: Job) -> str:
  """What the reference is known by; '' where nothing else may change it."""
  if not (job.online and config.init):
    return ''
  return trees.fingerprint(job.reference)


def same_reference(config, job: Job, meta: dict) -> None:
  """ValueError unless the KL is still measured from where the run began."""
  mark = reference_mark(config, job)
  if meta.get('reference', mark) != mark:
    raise ValueError(
        f'config.init={config.init} is not what it was when this run began, '
        'and its reference would be another: name its step, or put it back')


def draw(job: Job, source_state: Any, state: TrainState, seen, step: int):
  """The batch of a step: what the source's `next` gives."""
  key = steps.stream(state.key, 'rollout' if job.online else 'data', step)
  return job.source.next(source_state, state.params, seen, key)


def starting_policy(job: Job, manager) -> Any:
  """A copy of the policy at step 0, for the analyses; None without any.

  The run's own checkpoint where it has one already: what `init` names may have
  moved on since this run began.
  """
  if not job.analyses:
    return None
  if 0 in manager.all_steps():
    return lora.merge(checkpoint.restore_params(
        manager, 0, job.state.params))['policy']
  return trees.copied(lora.merge(job.state.params)['policy'])


def agree(config, at: Position) -> None:
  """Disagreement unless all processes are about to do the same."""
  if jax.process_count() > 1:
    multihost.agree(program(config) | dict(
        mesh=sharding.shape(), step=int(at.state.step),
        data=jax.device_get(at.source_state),
        parameters=trees.fingerprint(at.state.params)))


def program(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """What processes can say of what they will do before anything is made."""
  return dict(
      config=config.to_json(), code=multihost.code_version(),
      versions=[jax.__version__, rlft.__version__],
      processes=jax.process_count())


def log(
    writer: metrics.Writer, step: int, seen, data, clock: ledger.Clock,
    tokens: int | float, size: int, compilations: int,
) -> None:
  """A row of numbers; `tokens` have been worked on since the last.

  The batch of this step has `size` positions.
  """
  seen = jax.device_get(seen)
  clock.lap('log')
  spent = clock.flush()
  metrics.write(writer, step, {
      'padding': 1 - data['tokens'] / size, **seen, **data, **spent,
      'wall_seconds': clock.wall(), 'compilations': compilations,
      'tokens_per_second': tokens / ledger.worked(spent)})


def loop(
    config, run_dir, job: Job, manager, at: Position, settled: Callable,
) -> TrainState:
  """To the end; evaluates and saves where the config says so.

  A signal ends it at the next beat, when the state is that of a whole step: it
  is saved, whatever the config says, and preemption.Preempted goes on.
  """
  start, clock = int(at.state.step), ledger.Clock()
  metrics.truncate(run_dir / 'evals.jsonl', start)
  analyse = observe.recorder(
      run_dir, start, job.analyses, starting_policy(job, manager))
  saver = saving.Saver(manager, keep=config.checkpoint.keep)
  mark = reference_mark(config, job)

  def save():
    saver.save(at.state, at.source_state, {
        'num_steps': config.num_steps, 'fruitless': at.fruitless,
        'reference': mark})

  def settle(step):
    if step in binding.marks(config.evaluate, config.num_steps):
      evaluate.record(
          run_dir, step, job.evaluations, lora.merge(at.state.params))
      clock.lap('evaluate')
    if step in binding.marks(config.checkpoint, config.num_steps):
      save()
      clock.lap('save')

  try:
    agree(config, at)
    clock.lap('log')
    settle(start)
    for step in advance(config, run_dir, job, at, analyse, clock):
      settle(step)
      settled()
  except preemption.Preempted:
    save()
    saver.finish()
    raise
  saver.finish()
  return at.state


def advance(
    config, run_dir, job: Job, at: Position, analyse: Callable,
    clock: ledger.Clock,
) -> Iterator[int]:
  """source.next, update, analyse, log; gives the number of each step made."""
  start, end = int(at.state.step), config.num_steps
  logged = {1, end} | set(range(0, end, config.log.every))
  counter, writer = metrics.Compilations(), metrics.open_writer(run_dir, start)
  tokens, seen = 0, {}
  for step in progress.track(
      range(start, end), name=run_dir.name, total=end, start=start):
    pulse.beat()
    at.source_state, batch, data = draw(
        job, at.source_state, at.state, seen, step)
    tokens += data['tokens']
    clock.lap('rollout' if job.online else 'data', data)
    at.state, seen = job.update(at.state, batch)
    # the source's first draw would wait for it, on the rollout's account
    jax.block_until_ready(at.state.params)
    clock.lap('update')
    if job.online and at.resumed and step == start:
      odd = startup.wrong(
          data, seen, config.model.get('dtype', 'float32'), step)
      if odd:  # what a run that was never interrupted would go on with
        progress.say(f'{run_dir}: warning: {odd}')
    at.fruitless = alarms.look(
        seen, data, at.fruitless, step=step + 1, **config.limits)
    analysed = analyse(step + 1, at.state.params, clock)
    if analysed or step + 1 in logged:
      agree(config, at)
      log(writer, step + 1, seen, data, clock, tokens, batch.tokens.size,
          counter.count)
      tokens = 0
    clock.lap('log')
    yield step + 1
