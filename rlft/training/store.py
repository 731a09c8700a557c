"""Where a run is kept: a directory of this machine, or gs://BUCKET/FOLDER.

The one place that knows the difference. A bucket holds whole objects: there is
no rename, no append and no lock, and about one write a second of each. So what
grows is collected in memory and put whole, at most every PAUSE seconds, before
a checkpoint is saved, and when the run ends, by a signal or an error as well. A
put replaces what was there at once.
"""
import contextlib
import functools
import importlib.util
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from rlft import paths
from rlft.training import claims, disk

Where = Path | epath.Path

REMOTE = 'gs://'
PLACE = re.compile('gs://[a-z0-9][a-z0-9._-]*(/(?!-)[A-Za-z0-9_=,+.-]+)+')
PAUSE = 30.0  # seconds between two puts of what grows
SHARE = 20  # of the time at most one part in so many goes to them
COMMITTED = 'commit_success.txt'  # Orbax's mark of a step that is whole
UNREACHED = re.compile(  # as tensorstore says it
    'PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED')
MARK = 'corrupt.txt'  # in a bucket, of a step that is set aside


class Growing:
  """An object that is appended to: all of it, in memory."""

  def __init__(self, path: epath.Path):
    self.path, self.changed = path, False
    self.data = bytearray(path.read_bytes() if path.exists() else b'')
    self.last, self.pause = time.monotonic(), PAUSE

  def due(self) -> bool:
    return time.monotonic() - self.last >= self.pause

  def put(self) -> None:
    began = time.monotonic()
    self.path.write_bytes(bytes(self.data))
    self.changed, self.last = False, time.monotonic()
    self.pause = max(PAUSE, SHARE * (self.last - began))


_growing: dict[str, Growing] = {}


def is_remote(path: str | os.PathLike) -> bool:
  """Whether it is in a bucket."""
  return os.fspath(path).startswith(REMOTE)


def where(text: str | os.PathLike) -> Where:
  """The path of this name; ValueError where it can be none in a bucket."""
  return place(os.fspath(text)) if is_remote(text) else Path(text)


def place(text: str) -> epath.Path:
  """A folder of a bucket; ValueError where the text names none."""
  spelled = text.rstrip('/')
  if not PLACE.fullmatch(spelled) or '..' in spelled:
    raise ValueError(
        f'{paths.shown(spelled)} is no folder of a bucket: write '
        f'{REMOTE}BUCKET/FOLDER, with A-Z, a-z, 0-9 and . _ = , + - in names, '
        'which do not begin with -')
  _ready()
  return epath.Path(spelled)


def chosen(text: str | os.PathLike, flag: str) -> Where:
  """A directory of the user's own choice to write a run to; else ValueError."""
  if os.fspath(text).startswith(REMOTE[:4]):  # a Path has lost one slash
    return place(os.fspath(text))
  return paths.chosen(text, flag)


@functools.cache
def _ready() -> None:
  if importlib.util.find_spec('gcsfs') is None:
    raise ValueError(
        f'{REMOTE} needs gcsfs: pip install "gcsfs>=2026.10", or rlft with its '
        'extra, rlft[gcs]')
  # or epath would take TensorFlow for it where that is installed
  os.environ.setdefault('EPATH_USE_TF', 'false')
  from rlft.training import bucket
  bucket.install()


def absolute(path: Where) -> Where:
  """The path from the root; what is in a bucket has no other."""
  return path if is_remote(path) else path.resolve()


def above(path: Where) -> list[Where]:
  """The directories that it lies in, innermost first; buckets are none."""
  if not is_remote(path):
    return list(path.resolve().parents)
  return [p for p in path.parents if len(p.parts) > 3]  # '/', 'gs', BUCKET


def make(folder: Where) -> list[Where]:
  """Makes a directory; which were made, innermost first.

  A bucket has no directories, and is not made by writing to it.
  """
  if is_remote(folder):
    return []
  made = [p for p in (folder, *folder.parents) if not p.exists()]
  folder.mkdir(parents=True, exist_ok=True)
  return made


def children(folder: Where) -> list[str]:
  """Names of what is in a directory; none where there is no such directory."""
  try:
    return [path.name for path in folder.iterdir()]
  except FileNotFoundError:
    return []


def exists(path: Where) -> bool:
  """Whether there is such a file, or will be when it is put."""
  return str(path) in _growing or path.exists()


def read(path: Where) -> bytes:
  """All bytes of a file, with those that are still to be put."""
  grown = _growing.get(str(path))
  return path.read_bytes() if grown is None else bytes(grown.data)


def reached(error: BaseException | None) -> None:
  """OSError unless an error in reading from a bucket is about what is there."""
  while error is not None:
    away = isinstance(error, OSError) and not isinstance(
        error, FileNotFoundError | FileExistsError)
    if away or UNREACHED.search(str(error)):
      raise OSError(' '.join(str(error).split())[:300]) from error
    error = error.__cause__ or error.__context__


def replace(path: Where, data: bytes, partial: str = '') -> None:
  """Writes a file whole: others see what was there before, or all of this.

  `partial` is a name beside it to be written first, PATH.tmp by default.
  """
  if is_remote(path):
    _growing.pop(str(path), None)
    path.write_bytes(data)
    return
  temporary = path.with_name(partial or f'{path.name}.tmp')
  temporary.write_bytes(data)
  temporary.replace(path)


def append(path: Where, data: bytes) -> None:
  """Adds to the end of a file; in a bucket it is put when that is due."""
  if not is_remote(path):
    try:
      file = path.open('ab')
    except FileNotFoundError:
      path.parent.mkdir(parents=True, exist_ok=True)
      file = path.open('ab')
    with file:
      file.write(data)
    return
  grown = _growing.get(str(path)) or _growing.setdefault(
      str(path), Growing(path))
  grown.data += data
  grown.changed = True
  if grown.due():
    claims.check()
    grown.put()


def flush() -> None:
  """Puts what has grown; disk.Unsaved where that cannot be.

  claims.Ousted where another process has taken the directory over.
  """
  claims.check()
  for grown in _growing.values():
    if grown.changed:
      with disk.writing(grown.path):
        grown.put()


@contextlib.contextmanager
def flushed() -> Iterator[None]:
  """What grows inside is put at the end, also when something is raised."""
  try:
    yield
  except BaseException:
    with contextlib.suppress(ValueError):  # the first cause is what is told
      flush()
    raise
  else:
    flush()
  finally:
    _growing.clear()


def room(folder: Where, needed: int) -> None:
  """disk.Unsaved where a disk lacks room; a bucket has it."""
  if not is_remote(folder):
    disk.room(folder, needed)


def remove(folder: Where, first: str) -> None:
  """Removes a directory, as far as that can be done, its file `first` first."""
  (folder / first).unlink(missing_ok=True)
  if is_remote(folder):
    folder.rmtree(missing_ok=True)
  else:
    shutil.rmtree(folder, ignore_errors=True)


def vacate(step: Where) -> None:
  """Removes what a bucket has of a step that is about to be saved.

  Orbax would, but asks first what kind of bucket it is, which takes a right
  that nothing else here needs.
  """
  if is_remote(step) and step.exists():
    step.rmtree(missing_ok=True)


def set_aside(step: Where) -> str:
  """Makes a damaged step count no more, and keeps it; says how.

  There is no rename in a bucket: it loses the mark that Orbax goes by.
  """
  if is_remote(step):
    (step / MARK).write_text(json.dumps({'time': time.time()}) + '\n')
    (step / COMMITTED).unlink(missing_ok=True)
    return f'set aside by {step.name}/{MARK}'
  name, n = step.with_name(f'{step.name}.corrupt'), 1
  while name.exists():
    name, n = step.with_name(f'{step.name}.corrupt{n}'), n + 1
  step.rename(name)
  return f'renamed {name.name}'


def kept_aside(folder: Where) -> str:
  """Names of what was set aside, with commas; '' where nothing was."""
  found = ([f'{p.parent.name}/{MARK}' for p in folder.glob(f'*/{MARK}')]
           if is_remote(folder) else
           [p.name for p in folder.glob('*.corrupt*')])
  return ', '.join(sorted(found))


def clear(folder: Where) -> None:
  """Removes steps that were begun and not committed, as by a kill.

  Orbax would, too, but later, beside what else goes on there: it takes the
  directory that `disk.room` tries, and in a bucket what is set aside.
  """
  whole = {p.parent.name for mark in (MARK, COMMITTED)
           for p in folder.glob(f'*/{mark}')}
  for name in children(folder):
    begun = name.isdecimal() or name.startswith(disk.TRIAL)
    if begun and name not in whole:
      remove(folder / name, COMMITTED)
