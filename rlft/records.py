"""Records of files, by number: JSON Lines and Parquet, here or in a bucket.

Every file is read once, from end to end, when it is opened: each record is
looked at, and where it begins is kept, 8 bytes a record. From then on any
record is one read away. What is not JSON Lines on a disk of this machine is
copied as such to a temporary file that nobody else sees, which goes with the
process: TMPDIR says where, and has to have the room.
"""
import array
import contextlib
import functools
import glob
import hashlib
import importlib.util
import io
import json
import logging
import os
import re
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rlft import paths

REMOTE = re.compile('[a-z][a-z0-9+.-]*://')
TABLE = '.parquet'  # every other name is of JSON Lines
READ = 1024  # rows of a table at a time
COUNT = 2**20  # bytes at a time in which lines are counted

Check = Callable[[bytes], Any]  # ValueError for a record that is none


class File:
  """The records of one file; `digest` is the sha256 of its lines."""

  def __init__(self, name: str, lines: io.BufferedIOBase, starts: Sequence[int],
               digest: str):
    self.name, self.digest = name, digest
    self.starts = np.array(starts, np.int64)  # and one more, where it ends
    self.descriptor = os.dup(lines.fileno())  # survives a new file of the name
    weakref.finalize(self, os.close, self.descriptor)

  def __len__(self) -> int:
    return len(self.starts) - 1

  def read(self, i: int) -> bytes:
    start, stop = map(int, self.starts[i:i + 2])
    return os.pread(self.descriptor, stop - start, start)

  def line(self, i: int) -> int:
    """The number of its line, from 1; that of a row of a table is the same."""
    count, end = 1, int(self.starts[i])
    for at in range(0, end, COUNT):
      count += os.pread(
          self.descriptor, min(COUNT, end - at), at).count(b'\n')
    return count


class Records:
  """The records of several files, one after the other."""

  def __init__(self, files: Sequence[File]):
    self.files = files
    self.ends = np.cumsum([len(file) for file in files])
    self.digest = hashlib.sha256(
        ' '.join(file.digest for file in files).encode()).hexdigest()

  def __len__(self) -> int:
    return int(self.ends[-1])

  def _find(self, i: int) -> tuple[File, int]:
    n = int(np.searchsorted(self.ends, i, side='right'))
    return self.files[n], i - int(self.ends[n]) + len(self.files[n])

  def read(self, i: int) -> bytes:
    """The JSON text of record i, from 0."""
    file, place = self._find(i)
    return file.read(place)

  def place(self, i: int) -> str:
    """Where it is from: 'FILE line 12'."""
    file, place = self._find(i)
    return f'{file.name} line {file.line(place)}'


def find(files: Any) -> list[str]:
  """The files of names and patterns (`*`, `**`, `?`), in order.

  A list of them, or a text with commas between. PROTOCOL:// is fsspec's, gs://
  above all. ValueError for a name that no file has, and a file that two have.
  """
  wanted = files.split(',') if isinstance(files, str) else files
  if not isinstance(wanted, list | tuple) or not all(
      isinstance(pattern, str) for pattern in wanted):
    raise ValueError(f'{paths.shown(files)} names no files')
  found = [name for pattern in wanted for name in _matching(pattern.strip())]
  if not found:
    raise ValueError('there are no files: name some of JSON Lines (.jsonl) or '
                     'Parquet (.parquet)')
  twice = next((name for name in found if found.count(name) > 1), '')
  if twice:
    raise ValueError(f'{paths.shown(twice)} is named twice: name it once')
  return found


def _matching(pattern: str) -> list[str]:
  if not pattern:
    return []
  if paths.is_odd(pattern):
    raise ValueError(f'no file is called {paths.shown(pattern)}')
  if REMOTE.match(pattern):
    with told(pattern):
      found = _listed(pattern)
  elif os.path.isfile(pattern):
    return [pattern]
  else:
    found = sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True)))
  if not found:
    raise ValueError(f'there is no file {paths.shown(pattern)}: give the path '
                     'of one, or a pattern that some have')
  return found


def _listed(pattern: str) -> list[str]:
  system, path = remote(pattern)
  if set('*?[') & set(pattern):
    return [system.unstrip_protocol(p) for p in sorted(system.glob(path))]
  try:  # `exists`, and so `glob`, would take any failure for a no
    system.info(path)
  except FileNotFoundError:
    return []
  return [pattern]


def remote(url: str) -> tuple[Any, str]:
  """fsspec's file system of a URL, and the path in it; else ValueError."""
  import fsspec
  if re.match('(gs|gcs)://', url) and importlib.util.find_spec('gcsfs') is None:
    raise ValueError(f'{url} needs gcsfs: pip install "gcsfs>=2026.10", or '
                     'rlft with its extra, rlft[gcs]')
  hush()
  try:
    return fsspec.core.url_to_fs(url, use_listings_cache=False)
  except (ImportError, ValueError) as error:  # also for an unknown protocol
    raise ValueError(f'{paths.shown(url)}: {error}') from error


@functools.cache
def hush() -> None:
  """gcsfs and fsspec log as errors, in pages, what they raise anyway."""
  for name in ('gcsfs', 'fsspec.prefetcher'):
    logging.getLogger(name).addFilter(
        lambda record: record.levelno != logging.ERROR)


@contextlib.contextmanager
def told(name: str) -> Iterator[None]:
  """Whatever a disk or a bucket raises, as an OSError of one line."""
  try:
    yield
  except ValueError:
    raise
  except Exception as error:  # file systems raise what they like
    said = getattr(error, 'strerror', None) or ' '.join(str(error).split())
    raise OSError(f'{paths.shown(name)} cannot be read, or copied to '
                  f'{tempfile.gettempdir()}: '
                  f'{paths.shown(said or type(error).__name__)}') from error


def open_all(
    files: Any, fields: tuple[str, ...], check: Check) -> Records:
  """The records of files, each of which passes `check`.

  Of a table the columns `fields` are read, those that it has. ValueError names
  file and line of the first record that does not pass, and a file without any;
  OSError what cannot be read.
  """
  opened = []
  for name in find(files):
    with told(name):
      opened.append(_opened(name, stamp(name), fields, check))
  return Records(opened)


def stamp(name: str) -> tuple:
  """What changes when a file does: a file is indexed again only then."""
  if not REMOTE.match(name):
    about = os.stat(name)
    return about.st_ino, about.st_size, about.st_mtime_ns
  system, path = remote(name)
  about = system.info(path)
  return tuple(str(about.get(key)) for key in (
      'size', 'generation', 'etag', 'mtime', 'created', 'LastModified'))


@functools.lru_cache(maxsize=512)  # a run is checked, and then begun
def _opened(
    name: str, stamp: tuple, fields: tuple[str, ...], check: Check) -> File:
  local = not REMOTE.match(name) and not name.endswith(TABLE)
  with contextlib.ExitStack() as stack:
    source = stack.enter_context(bytes_of(name))
    kept = source if local else stack.enter_context(tempfile.TemporaryFile())
    lines = (rows(name, source, fields) if name.endswith(TABLE)
             else iter(source))
    starts, at, digest = array.array('q'), 0, hashlib.sha256()
    for number, line in enumerate(lines, 1):
      digest.update(line)
      if not local:
        kept.write(line)
      if line.strip():
        try:
          check(line)
        except ValueError as error:
          raise ValueError(
              f'{paths.shown(name)} line {number}: {error}') from error
        starts.append(at)
      at += len(line)
    if not starts:
      raise ValueError(f'{paths.shown(name)} is empty: leave it out')
    kept.flush()
    return File(name, kept, [*starts, at], digest.hexdigest())


def bytes_of(name: str) -> io.BufferedIOBase:
  """A file, open to be read."""
  if not REMOTE.match(name):
    return open(name, 'rb')
  system, path = remote(name)
  # buffered, or fsspec would read a whole block for every line
  return io.BufferedReader(system.open(path, 'rb'), COUNT)


def rows(
    name: str, file: io.BufferedIOBase, fields: tuple[str, ...],
) -> Iterator[bytes]:
  """The rows of a table as lines of JSON, without what is null."""
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError as error:
    raise ValueError(f'{paths.shown(name)} needs pyarrow: pip install '
                     '"pyarrow>=21", or rlft with its extra, rlft[data]'
                     ) from error
  try:
    table = parquet.ParquetFile(file)
    columns = [c for c in table.schema_arrow.names if c in fields]
    for batch in table.iter_batches(batch_size=READ, columns=columns):
      for row in batch.to_pylist():
        yield json.dumps(filled(row), default=str).encode() + b'\n'
  except pyarrow.ArrowException as error:
    said = paths.shown(' '.join(str(error).split()))
    raise ValueError(f'{paths.shown(name)} is no Parquet file, or is damaged: '
                     f'{said}') from error


def filled(value: Any) -> Any:
  """Without nulls: a table has them wherever one of its rows has a field."""
  if isinstance(value, dict):
    return {k: filled(v) for k, v in value.items() if v is not None}
  return list(map(filled, value)) if isinstance(value, list) else value
