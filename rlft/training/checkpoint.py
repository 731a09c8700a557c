"""Checkpoints: Orbax, one directory per step, committed by a file.

`RUN_DIR@STEP` names one. The policy's parameters are an item of their own, so
that another run can start from them without knowing this run's optimizer.
"""
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from rlft import paths
from rlft.ops import alarms, trees
from rlft.training import (
    disk,
    multihost,
    parameters,
    progress,
    seal,
    store,
)
from rlft.types import TrainState

RUN_IT = 'run it first: rlft run --config=... --run_dir={}'


@contextlib.contextmanager
def open_manager(run_dir: store.Where) -> Iterator[ocp.CheckpointManager]:
  """The manager of RUN_DIR/checkpoints, which keeps every step.

  Raises disk.Unsaved at its end for a save that failed and that nobody waited
  for, unless something else has been raised.
  """
  options = ocp.CheckpointManagerOptions(
      atomicity_options=ocp.options.AtomicityOptions(
          mode=ocp.options.AtomicityMode.COMMIT_FILE),
      step_format_fixed_length=6)
  folder = store.absolute(run_dir) / 'checkpoints'
  if multihost.leads():
    store.clear(folder)
  with disk.quiet():
    manager = ocp.CheckpointManager(folder, options=options)
    try:
      yield manager
    except BaseException:
      with contextlib.suppress(disk.Unsaved):
        _close(manager, folder)
      raise
    _close(manager, folder)


def _close(manager: ocp.CheckpointManager, folder: store.Where) -> None:
  try:
    with disk.writing(folder, Exception):
      manager.close()
    return
  except disk.Unsaved as error:
    told = str(error)
  for _ in range(3):  # it has only waited, and told one error of several
    with contextlib.suppress(Exception):
      manager.close()
      break
  disk.collect()
  raise disk.Unsaved(told)


def save(
    manager: ocp.CheckpointManager, state: TrainState, source_state: PyTree,
    meta: dict[str, Any],
) -> None:
  """Saves at `state.step`, in the background; a step saved before is kept.

  Raises alarms.Halt for a state that is not finite: it would pass for the
  newest good one; disk.Unsaved where the save cannot even begin.
  """
  step = int(state.step)
  if step in manager.all_steps():
    return
  parts = _parts(state)
  bad = trees.not_finite(parts)
  if bad:
    raise alarms.Halt(f'step {step} is not saved: {bad[0]} is not finite '
                      f'({len(bad)} such)')
  told = seal.seal(parts, step=step, source=source_state, meta=meta)
  folder = store.where(manager.directory) / f'{step:06d}'
  with disk.writing(folder, Exception, then=''):
    if multihost.leads():
      store.vacate(folder)
    manager.save(step, args=ocp.args.Composite(
        **{k: ocp.args.StandardSave(v) for k, v in parts.items()},
        seal=ocp.args.JsonSave(told)))


def _parts(state: TrainState) -> dict[str, PyTree]:
  rest = state._asdict()
  return {'params': rest.pop('params'), 'rest': rest}


def save_params(run_dir: store.Where, step: int, params: PyTree) -> None:
  """Saves parameters alone, at a step of a run directory."""
  with open_manager(run_dir) as manager:
    manager.save(step, args=ocp.args.Composite(
        params=ocp.args.StandardSave(params),
        seal=ocp.args.JsonSave(seal.seal({'params': params}, step=step))))


def restore_latest(
    manager: ocp.CheckpointManager, like: TrainState,
) -> tuple[TrainState, PyTree] | None:
  """The newest state that is whole; None where nothing was saved.

  A damaged step is set aside, and the one before it taken. Raises
  seal.Lost when there were steps and none is whole: a run must not begin anew
  because a disk is failing.
  """
  for step in sorted(manager.all_steps(), reverse=True):
    try:
      return restore(manager, step, like)
    except seal.Damaged:
      folder = store.where(manager.directory) / f'{step:06d}'
      progress.say(f'rlft: {folder} is damaged: {_set_aside(folder)}')
      manager.reload()
  folder = store.where(manager.directory)
  kept = store.kept_aside(folder)
  if kept:
    raise seal.Lost(
        f'no checkpoint in {folder} is whole, they are kept as {kept}: '
        f'put one back, or delete {folder.parent} to begin anew')
  return None


def _set_aside(folder: store.Where) -> str:
  multihost.meet(f'about to set {folder} aside')  # all have read it
  said = store.set_aside(folder) if multihost.leads() else ''
  multihost.meet(f'{folder} is set aside')
  return said


def restore(
    manager: ocp.CheckpointManager, step: int, like: TrainState,
) -> tuple[TrainState, PyTree]:
  """The train state of a step, as `like`, and the source's state.

  Raises seal.Damaged for what is not as it was saved; another ValueError for a
  state of other names, shapes or dtypes, and when only parameters were saved,
  as of an edited checkpoint.
  """
  told, found = _restored(manager, step, _parts(like))
  return TrainState(params=found['params'], **found['rest']), told['source']


def restore_params(
    manager: ocp.CheckpointManager, step: int, like: PyTree,
) -> PyTree:
  """The parameters of a step alone, laid out over devices as `like` is."""
  return _restored(manager, step, {'params': like})[1]['params']


def _restored(
    manager: ocp.CheckpointManager, step: int, parts: dict[str, PyTree],
) -> tuple[dict[str, Any], dict[str, PyTree]]:
  """The seal of a step, and these parts of it, as they were saved."""
  run_dir = store.where(manager.directory).parent
  told = seal.sealed(run_dir, step)
  marks = {path: mark for path, mark in told['fingerprints'].items()
           if path.partition('/')[0] in parts}
  if 'rest' in parts and not any(path.startswith('rest/') for path in marks):
    raise ValueError(
        f'{run_dir}@{step} holds parameters only, so this run cannot go on: '
        'start a new one with config.init')
  try:
    seal.fits(marks, parts)
  except ValueError as error:
    raise ValueError(
        f'{run_dir}@{step} is of another model or optimizer: {error}; take '
        'another run directory') from error

  def restored():
    found = manager.restore(step, args=ocp.args.Composite(**{
        k: ocp.args.StandardRestore(_abstract(v)) for k, v in parts.items()}))
    found = {k: found[k] for k in parts}
    seal.check(marks, found)
    return found

  return told, seal.read(restored, run_dir, step)


def _abstract(tree: PyTree) -> PyTree:
  return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


def split(name: str) -> tuple[store.Where, str]:
  """'RUN_DIR@STEP' -> (RUN_DIR, STEP); ValueError when there is no '@'."""
  run_dir, at, step = name.rpartition('@')
  if not at or paths.is_odd(name):
    raise ValueError(f'{name!r} names no checkpoint: write RUN_DIR@STEP, '
                     'asset:NAME or hf:DIR')
  return store.where(run_dir), step


def resolve_step(name: str) -> int:
  """The step that 'RUN_DIR@STEP' or 'RUN_DIR@last' means.

  Raises ValueError, listing the steps there are, when this one is missing.
  """
  run_dir, step = split(name)
  if not (run_dir / 'checkpoints').is_dir():
    run_config(run_dir)
    raise ValueError(f'no checkpoints in {run_dir}: {RUN_IT.format(run_dir)}')
  known = seal.steps(run_dir)
  wanted = str(known[-1]) if step == 'last' and known else step
  if not (wanted.isdecimal() and len(wanted) < 99 and int(wanted) in known):
    raise ValueError(f'no step {step} in {run_dir}; {seal.listed(run_dir)}')
  return int(wanted)


def find(name: str) -> store.Where:
  """The directory with the parameters of 'RUN_DIR@STEP'; else ValueError."""
  step = resolve_step(name)
  run_dir, _ = split(name)
  path = store.absolute(run_dir) / 'checkpoints' / f'{step:06d}' / 'params'
  if not path.is_dir():
    raise ValueError(seal.unreadable(run_dir, step))
  return path


def leaves(name: str) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
  """Path -> (shape, dtype) of what `load_params` would load; reads no data."""
  found = seal.read(lambda: parameters.shapes(find(name)),
                    split(name)[0], resolve_step(name))
  return {path: (x.shape, x.dtype) for path, x in trees.named(found).items()}


def load_leaf(name: str, leaf: str) -> np.ndarray:
  """One leaf of 'RUN_DIR@STEP' by its path, such as 'policy/head/kernel'."""
  path = find(name)
  run_dir, step = split(name)[0], resolve_step(name)
  marks = seal.sealed(run_dir, step)['fingerprints']

  def restored():
    found = parameters.leaf(path, leaf)
    seal.check(marks, {'params': found}, only=[f'params/{leaf}'])
    return found

  return trees.named(seal.read(restored, run_dir, step))[leaf]


def load_params(name: str) -> PyTree:
  """Parameters {'policy', ...} of 'RUN_DIR@STEP'; where, see `parameters`."""
  path = find(name)
  run_dir, step = split(name)[0], resolve_step(name)
  marks = {path: mark for path, mark in seal.sealed(
      run_dir, step)['fingerprints'].items() if path.startswith('params/')}

  def restored():
    seal.check(marks, {'params': (found := parameters.read(path))})
    return found

  return seal.read(restored, run_dir, step)


def run_config(run_dir: store.Where) -> dict[str, Any]:
  """The resolved config that a run wrote.

  ValueError when there is none, or when it is that of a study or an analysis,
  which have no checkpoints of their own.
  """
  path = run_dir / 'config.json'
  if not path.is_file() and (run_dir / 'checkpoints').is_dir():
    raise ValueError(f'no config.json in {run_dir}: put back the one that its '
                     'checkpoints were made with')
  if not path.is_file():
    raise ValueError(
        f'no checkpoints in {run_dir}, nor config.json: '
        f'{RUN_IT.format(run_dir)}')
  try:
    config = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f'{path} is damaged ({error}): put back the one that its '
                     'checkpoints were made with') from error
  if 'stages' in config:
    names = ', '.join(
        k for k, stage in config['stages'].items()
        if 'analysis' not in stage['config'])
    raise ValueError(
        f'{run_dir} is a study, not a run: write {run_dir}/STAGE@STEP with a '
        f'stage of {names}')
  if 'analysis' in config:
    raise ValueError(f'{run_dir} is an analysis: it saves no checkpoints')
  return config
