"""What a disk refuses: one line that says what to do, and exit code 45."""
import contextlib
import gc
import logging
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax

AGAIN = ('make room there, or see why it cannot be written, and start the same '
         'command again: it goes on')

TRIAL = 'trial'  # begins the name of what is tried out
LATE = re.compile('.*(Event loop is closed|was never awaited)')


class Unsaved(ValueError):
  """What was to be kept could not be written."""
  exit_code = 45


@contextlib.contextmanager
def writing(
    path: os.PathLike, refusals: type[Exception] = OSError,
    then: str = f'; {AGAIN}',
) -> Iterator[None]:
  """Unsaved, one line that names the path, for a refusal inside.

  The library of checkpoints raises what it likes, of many pages; too little
  memory and a device's own trouble are not the disk's, and go on as they are.
  """
  try:
    yield
  except (MemoryError, jax.errors.JaxRuntimeError):
    raise
  except refusals as error:
    raise Unsaved(f'cannot write {path}: {reason(error)}{then}') from error


def reason(error: Exception) -> str:
  """What the system said, in its own few words where it can be found."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  number = re.search(r"os_error_code='(\d+)'", str(error))
  if number:
    return os.strerror(int(number[1]))
  lines = str(error).strip().splitlines() or ['']
  return f'{type(error).__name__}: {lines[0][:200]}'


def room(folder: Path, needed: int) -> None:
  """Unsaved unless as many bytes are free, and something can be written.

  Tried out, because threads of a save whose directory could not be made wait
  for it, and the end of the process for them, for minutes.
  """
  with writing(folder, then=''):
    free = shutil.disk_usage(folder).free
    with tempfile.TemporaryDirectory(prefix=TRIAL, dir=folder) as trial:
      (Path(trial) / 'block').write_bytes(bytes(2**12))
  if free < needed:
    raise Unsaved(f'cannot write {folder}: {free / 1e6:.1f} MB are free there '
                  f'and a save may need {needed / 1e6:.1f}')


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Without the pages that are told of each thread and task that failed.

  Tasks that were given up end after their loop, whenever they are collected.
  """
  logs = [logging.getLogger(name) for name in ('absl', 'asyncio')]
  hook, brief = sys.unraisablehook, lambda record: not record.exc_info
  late = lambda told: LATE.search(str(told.exc_value))
  sys.unraisablehook = lambda told: None if late(told) else hook(told)
  for log in logs:
    log.addFilter(brief)
  try:
    with warnings.catch_warnings():
      warnings.filterwarnings('ignore', LATE.pattern, RuntimeWarning)
      yield
  finally:
    sys.unraisablehook = hook
    for log in logs:
      log.removeFilter(brief)


def collect() -> None:
  """Collects what was given up, unheard."""
  with quiet():
    gc.collect()
