"""Saves that may fail: a run goes on while its newest whole step is safe.

Orbax writes in the background, lists a step before it is on the disk, and would
delete an older one for it. So each save is settled, waited for and looked at,
before the next one begins, and only then do older steps go.
"""
import contextlib
import time
from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from rlft.training import checkpoint, disk, progress, seal, store
from rlft.types import TrainState

ITEMS = ('params', 'rest', 'seal')
LIMIT = 2  # failed saves in a row
ROOM = 2  # times what a state takes that must be free before it is saved


class Saver:
  """The saves of one run; the newest `keep` steps stay, all if it is 0."""

  def __init__(self, manager: ocp.CheckpointManager, *, keep: int):
    self.manager, self.keep = manager, keep
    self.folder = store.where(manager.directory)
    self.under_way: int | None = None  # the step that is being written
    self.failed: list[str] = []  # what became of the last saves, in a row
    self.left: set[int] = set()  # steps of which something may be left

  def save(
      self, state: TrainState, source_state: PyTree, meta: dict[str, Any],
  ) -> None:
    """Settles the save before, and begins that of `state.step`.

    A step saved before is kept. A failed save is told, and Unsaved raised when
    the one before it had failed, too; alarms.Halt for a state that is not
    finite.
    """
    self.settle()
    step = int(state.step)
    if step in self.manager.all_steps():
      return
    store.flush()  # what was logged before a step is there with it
    self._drop(self.left)
    refused = heard(lambda: store.room(self.folder, ROOM * size(state)))
    if not agreed(not refused):  # or some would wait for the others' part
      self._missed(step, refused)
      return
    for _ in range(1 + len(self.failed)):  # an error may be the last save's
      refused = heard(lambda: checkpoint.save(
          self.manager, state, source_state, meta))
      if not refused:
        break
    if refused:
      self._give_up(step)
      self._missed(step, refused)
      return
    self.under_way = step

  def settle(self) -> None:
    """Waits for the save under way and looks at it; then older steps go.

    It fails as `save` does.
    """
    step, self.under_way = self.under_way, None
    if step is None:
      return
    run_dir = self.folder.parent
    refused = heard(lambda: self._wait(step))
    if not refused and jax.process_index() == 0:  # others may see it later
      refused = heard(lambda: verify(run_dir, step))
    if not agreed(not refused):
      self._give_up(step)
      self._missed(step, refused)
      return
    self.failed = []
    self.left.discard(step)
    if self.keep:
      self._drop(seal.steps(run_dir)[:-self.keep])

  def finish(self) -> None:
    """Settles the last save of a run; Unsaved if it failed."""
    self.settle()
    store.flush()
    self._drop(self.left)
    if self.failed:
      raise self._end('the last one')

  def _give_up(self, step: int) -> None:
    """Removes what is half written: it would keep a full disk full."""
    self.left.add(step)
    for _ in range(3):  # other threads of it may be at work for a moment more
      self._drop([step])
      time.sleep(0.1)
      with contextlib.suppress(Exception):
        self.manager.check_for_errors()  # or the next save would raise it again
    disk.collect()

  def _missed(self, step: int, refused: str) -> None:
    refused = refused or 'another process could not write its part'
    self.failed.append(f'step {step} is not saved: {refused}')
    if len(self.failed) >= LIMIT:
      raise self._end('the second in a row')
    progress.say(f'rlft: {self.failed[-1]}; {self._newest()}, and the next '
                 'save that is due tries again')

  def _end(self, which: str) -> disk.Unsaved:
    return disk.Unsaved(
        f'{self.failed[-1]}; this save failed, {which}, {self._newest()}: '
        f'{disk.AGAIN} from there')

  def _newest(self) -> str:
    run_dir = self.folder.parent
    step = newest(run_dir)
    return ('no step is saved yet' if step is None else
            f'{run_dir}@{step} is whole')

  def _wait(self, step: int) -> None:
    with disk.writing(self._path(step), Exception, then=''):
      self.manager.wait_until_finished()

  def _path(self, step: int) -> store.Where:
    return self.folder / f'{step:06d}'

  def _drop(self, steps: Collection[int]) -> None:
    """Removes steps, as far as that can be done.

    The commit file goes first: of what is then left nothing passes for a step.
    """
    if not steps:
      return
    if jax.process_index() == 0:
      for step in steps:
        with contextlib.suppress(OSError):
          store.remove(self._path(step), first=store.COMMITTED)
    agreed(True)  # nobody looks before they are gone
    with contextlib.suppress(OSError):
      self.manager.reload()


def size(state: TrainState) -> int:
  """Bytes of all arrays of a state."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))


def verify(run_dir: store.Where, step: int) -> None:
  """Unsaved unless a step is committed, all there, and says what it is."""
  folder = run_dir / 'checkpoints' / f'{step:06d}'
  missing = [name for name in ITEMS if not (folder / name).is_dir()]
  if step not in seal.steps(run_dir) or missing:
    raise disk.Unsaved(f'{folder} is not complete')
  try:
    seal.sealed(run_dir, step)
  except (seal.Damaged, OSError) as error:
    raise disk.Unsaved(f'{folder} cannot be read back') from error


def newest(run_dir: store.Where) -> int | None:
  """The newest step that is whole, as far as it says itself."""
  for step in reversed(seal.steps(run_dir)):
    with contextlib.suppress(disk.Unsaved):
      verify(run_dir, step)
      return step
  return None


def heard(action: Callable[[], None]) -> str:
  """What the disk refused; '' if nothing.

  Its words only: the error itself would keep alive what was given up.
  """
  try:
    action()
  except disk.Unsaved as error:
    return str(error)
  return ''


def agreed(sound: bool) -> bool:
  """Whether every process says so: none may go on alone."""
  if jax.process_count() == 1:
    return sound
  return bool(np.all(multihost_utils.process_allgather(np.asarray(sound))))
