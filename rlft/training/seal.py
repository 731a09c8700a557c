"""What a checkpoint says of itself, so that damage cannot pass unseen.

Orbax keeps no checksum of array data: a flipped bit is restored as if it had
been saved. A seal is a JSON object with the fingerprint of every leaf, and the
sha256 of itself.
"""
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from jaxtyping import PyTree

from rlft.ops import trees
from rlft.training import disk, store

SUM = 'sha256'


class Damaged(ValueError):
  """What is on the disk is not what was saved."""


class Lost(ValueError):
  """There were checkpoints, and none of them is whole."""
  exit_code = 46


def seal(tree: PyTree, **said: Any) -> dict[str, Any]:
  """Fingerprints of a tree and whatever else is to be kept unchanged."""
  found = {**said, 'fingerprints': trees.fingerprints(tree)}
  found = json.loads(json.dumps(found))  # as it will be read: keys are strings
  return {**found, SUM: _sum(found)}


def opened(found: Any) -> dict[str, Any]:
  """The seal itself, if it is whole; else Damaged."""
  if not isinstance(found, dict) or SUM not in found:
    raise Damaged('its seal is missing: an older version saved it')
  if found[SUM] != _sum({k: v for k, v in found.items() if k != SUM}):
    raise Damaged('its seal is broken')
  return found


def fits(found: Mapping[str, str], like: PyTree) -> None:
  """ValueError unless a tree of `like` has these names, dtypes and shapes.

  `found` are fingerprints; no data is read. Orbax would cast silently.
  """
  wanted = {path: f'{x.dtype} {list(x.shape)}'
            for path, x in trees.named(like).items()}
  kinds = {path: mark.rpartition(' ')[0] for path, mark in found.items()}
  odd = sorted(path for path in wanted | kinds
               if wanted.get(path) != kinds.get(path))
  if odd:
    raise ValueError(
        f'{odd[0]} is {kinds.get(odd[0], "absent")} there and '
        f'{wanted.get(odd[0], "absent")} here ({len(odd)} such)')


def check(
    found: Mapping[str, str], tree: PyTree, only: Iterable[str] | None = None,
) -> None:
  """Damaged unless every leaf is the one that was sealed."""
  marks = trees.fingerprints(tree)
  names = set(marks) | set(found) if only is None else set(only)
  odd = sorted(path for path in names if marks.get(path) != found.get(path))
  if odd:
    raise Damaged(f'{odd[0]} is not what was saved ({len(odd)} such)')


def _sum(found: Mapping[str, Any]) -> str:
  text = json.dumps(found, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def steps(run_dir: store.Where) -> list[int]:
  """Steps with a committed checkpoint, ascending."""
  found = (run_dir / 'checkpoints').glob(f'*/{store.COMMITTED}')
  names = (p.parent.name for p in found)
  return sorted(int(name) for name in names if name.isdecimal())


def listed(run_dir: store.Where) -> str:
  """Its steps in words, and those that a run has set aside."""
  aside = store.kept_aside(run_dir / 'checkpoints')
  return 'saved: ' + (', '.join(map(str, steps(run_dir))) or 'none') + (
      f'; set aside as damaged: {aside}' if aside else '')


def sealed(run_dir: store.Where, step: int) -> dict[str, Any]:
  """What a step says of itself; Damaged when it cannot be believed."""
  path = run_dir / 'checkpoints' / f'{step:06d}' / 'seal' / 'metadata'

  def believed():
    told = opened(json.loads(path.read_text()))
    if told['step'] != step:
      raise Damaged(f'it was saved as step {told["step"]}')
    return told

  return read(believed, run_dir, step)


def read(restored: Callable[[], Any], run_dir: store.Where, step: int) -> Any:
  """What `restored` gives; Damaged, one line, for whatever it raises.

  The library raises bare Exceptions of many pages, and more when the reads that
  it gave up are collected: that is done here, unheard. What says nothing of the
  files goes on as it is: too little memory, a device's own trouble, a directory
  that may not be read, a bucket that does not answer.
  """
  try:
    return restored()
  except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
    raise
  except Exception as error:
    if store.is_remote(run_dir):
      store.reached(error)
    # Its first line only: the error itself would keep those reads alive.
    lines = str(error).strip().splitlines() or ['']
    said = f'{type(error).__name__}: {lines[0][:200]}'
  disk.collect()
  raise Damaged(f'{unreadable(run_dir, step)} (it says {said})')


def unreadable(run_dir: store.Where, step: int) -> str:
  """What to do about a checkpoint that cannot be read."""
  others = [str(s) for s in steps(run_dir) if s != step]
  return (
      f'the checkpoint {run_dir}@{step} is damaged, or of another model: take '
      'another step '
      f'({", ".join(others) or "there is none"}), or delete '
      f'{run_dir}/checkpoints/{step:06d} and run the run again')
