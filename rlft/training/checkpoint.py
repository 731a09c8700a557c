"""Checkpoints: Orbax, one directory per step, committed by a file.

`RUN_DIR@STEP` names one. The policy's parameters are an item of their own, so
that another run can start from them without knowing this run's optimizer.
"""
import functools
import gc
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from rlft.ops import trees
from rlft.types import TrainState

RUN_IT = 'run it first: rlft run --config=... --run_dir={}'


def open_manager(run_dir: Path, *, keep: int | None) -> ocp.CheckpointManager:
  """The manager of RUN_DIR/checkpoints; use it as a context manager.

  `keep` is the number of newest steps to keep; None keeps all.
  """
  preservation = (
      None if keep is None else ocp.checkpoint_managers.LatestN(keep))
  options = ocp.CheckpointManagerOptions(
      preservation_policy=preservation,
      atomicity_options=ocp.options.AtomicityOptions(
          mode=ocp.options.AtomicityMode.COMMIT_FILE),
      cleanup_tmp_directories=True,
      step_format_fixed_length=6)
  return ocp.CheckpointManager(run_dir.resolve() / 'checkpoints',
                               options=options)


def save(
    manager: ocp.CheckpointManager, state: TrainState, source_state: PyTree,
    meta: dict[str, Any],
) -> None:
  """Saves at `state.step`, in the background; a step saved before is kept."""
  step = int(state.step)
  if step in manager.all_steps():
    return
  rest = state._asdict()
  params = rest.pop('params')
  manager.save(step, args=ocp.args.Composite(
      params=ocp.args.StandardSave(params),
      rest=ocp.args.StandardSave(rest),
      source=ocp.args.JsonSave({'state': source_state}),
      meta=ocp.args.JsonSave(meta)))


def save_params(run_dir: Path, step: int, params: PyTree) -> None:
  """Saves parameters alone, at a step of a run directory."""
  with open_manager(run_dir, keep=None) as manager:
    manager.save(step, args=ocp.args.Composite(
        params=ocp.args.StandardSave(params)))


def restore(
    manager: ocp.CheckpointManager, step: int, like: TrainState,
) -> tuple[TrainState, PyTree]:
  """The train state of a step, as `like`, and the source's state.

  Raises ValueError when only parameters were saved, as of an edited checkpoint.
  """
  folder = Path(manager.directory) / f'{step:06d}'
  if not (folder / 'rest').is_dir():
    raise ValueError(
        f'{folder} holds parameters only, so this run cannot go on: start a '
        'new one with config.init')
  rest = like._asdict()
  params = rest.pop('params')
  wanted = ocp.args.Composite(
      params=ocp.args.StandardRestore(_abstract(params)),
      rest=ocp.args.StandardRestore(_abstract(rest)),
      source=ocp.args.JsonRestore())
  found = read(lambda: manager.restore(step, args=wanted),
               Path(str(manager.directory)).parent, step)
  state = TrainState(params=found['params'], **found['rest'])
  return state, found['source']['state']


def restore_params(
    manager: ocp.CheckpointManager, step: int, like: PyTree,
) -> PyTree:
  """The parameters of a step alone, laid out over devices as `like` is."""
  return manager.restore(step, args=ocp.args.Composite(
      params=ocp.args.StandardRestore(_abstract(like))))['params']


def _abstract(tree: PyTree) -> PyTree:
  return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


def split(name: str) -> tuple[Path, str]:
  """'RUN_DIR@STEP' -> (RUN_DIR, STEP); ValueError when there is no '@'."""
  run_dir, at, step = name.rpartition('@')
  if not at:
    raise ValueError(f'{name!r} names no checkpoint: write RUN_DIR@STEP')
  return Path(run_dir), step


def steps(run_dir: Path) -> list[int]:
  """Steps with a committed checkpoint, ascending."""
  found = (run_dir / 'checkpoints').glob('*/commit_success.txt')
  return sorted(int(p.parent.name) for p in found)


def resolve_step(name: str) -> int:
  """The step that 'RUN_DIR@STEP' or 'RUN_DIR@last' means.

  Raises ValueError, listing the steps there are, when this one is missing.
  """
  run_dir, step = split(name)
  if not (run_dir / 'checkpoints').is_dir():
    run_config(run_dir)
    raise ValueError(f'no checkpoints in {run_dir}: {RUN_IT.format(run_dir)}')
  known = steps(run_dir)
  wanted = str(known[-1]) if step == 'last' and known else step
  if not wanted.isdecimal() or int(wanted) not in known:
    raise ValueError(
        f'no step {step} in {run_dir}; saved: '
        f'{", ".join(map(str, known)) or "none"}')
  return int(wanted)


def find(name: str) -> Path:
  """The directory with the parameters of 'RUN_DIR@STEP'; else ValueError."""
  step = resolve_step(name)
  run_dir, _ = split(name)
  path = run_dir.resolve() / 'checkpoints' / f'{step:06d}' / 'params'
  if not path.is_dir():
    raise ValueError(unreadable(run_dir, step))
  return path


def leaves(name: str) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
  """Path -> (shape, dtype) of what `load_params` would load; reads no data."""
  path = find(name)
  found = read(lambda: ocp.PyTreeCheckpointHandler().metadata(path),
               split(name)[0], resolve_step(name))
  tree = getattr(found, 'tree', found)
  return {
      path: (tuple(x.shape), np.dtype(x.dtype))
      for path, x in trees.named(tree).items()}


def load_leaf(name: str, leaf: str) -> np.ndarray:
  """One leaf of 'RUN_DIR@STEP' by its path, such as 'policy/head/kernel'."""
  words, path = leaf.split('/'), find(name)
  nest = lambda x: functools.reduce(lambda y, w: {w: y}, words[::-1], x)

  def restored():
    with ocp.PyTreeCheckpointer() as reader:
      return reader.restore(path, args=ocp.args.PyTreeRestore(
          item=nest(0), restore_args=nest(ocp.RestoreArgs(np.ndarray)),
          partial_restore=True))

  found = read(restored, split(name)[0], resolve_step(name))
  return functools.reduce(lambda y, w: y[w], words, found)


def load_params(name: str) -> PyTree:
  """Parameters {'policy', ...} of 'RUN_DIR@STEP' or 'RUN_DIR@last'."""
  path = find(name)

  def restored():
    with ocp.StandardCheckpointer() as reader:
      return jax.tree.map(np.asarray, reader.restore(path))

  return read(restored, split(name)[0], resolve_step(name))


def read(restored: Callable[[], Any], run_dir: Path, step: int) -> Any:
  """What `restored` gives; ValueError, one line, for whatever it raises.

  The library raises bare Exceptions of many pages, and more when the reads that
  it gave up are collected: that is done here, unheard.
  """
  try:
    return restored()
  except Exception as error:
    # Its first line only: the error itself would keep those reads alive.
    lines = str(error).strip().splitlines() or ['']
    said = f'{type(error).__name__}: {lines[0][:200]}'
  hook, log = sys.unraisablehook, logging.getLogger('asyncio')
  sys.unraisablehook, log.disabled = lambda _: None, True
  try:
    gc.collect()
  finally:
    sys.unraisablehook, log.disabled = hook, False
  raise ValueError(f'{unreadable(run_dir, step)} (it says {said})')


def unreadable(run_dir: Path, step: int) -> str:
  """What to do about a checkpoint that cannot be read."""
  others = [str(s) for s in steps(run_dir) if s != step]
  return (
      f'the checkpoint {run_dir}@{step} is damaged, or of another model: take '
      'another step '
      f'({", ".join(others) or "there is none"}), or delete '
      f'{run_dir}/checkpoints/{step:06d} and run the run again')


def run_config(run_dir: Path) -> dict[str, Any]:
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
  config = json.loads(path.read_text())
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
