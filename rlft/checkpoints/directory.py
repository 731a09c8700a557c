"""A directory of safetensors files, in the layout of Hugging Face.

Either `model.safetensors`, or the files that `model.safetensors.index.json`
names. Pickled weights are never read. Data are read by offset, not mapped:
pages of a mapped file would count as memory as long as it is open.
"""
import functools
import json
import pathlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from jaxtyping import Shaped

from rlft import paths
from rlft.checkpoints import header
from rlft.checkpoints.tensor import CHUNK, DTYPES, Checkpoint

SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
PICKLED = ('.bin', '.pt', '.pth', '.pkl', '.ckpt')


def read(name: str) -> Checkpoint:
  """The checkpoint of a directory; ValueError says what is wrong with it."""
  folder = pathlib.Path(name)
  if not folder.is_dir():
    raise ValueError(
        f'{name} is no directory, and no RUN_DIR@STEP: give one of the two')
  if (folder / 'checkpoints').is_dir():
    raise ValueError(f'{name} is a run: say which step, {name}@last')
  # As transformers does: a single file goes before an index.
  single = (folder / SINGLE).is_file()
  listed = None if single else index(folder)
  labels = [SINGLE] if single else list(dict.fromkeys(listed.values()))
  files = {label: inside(folder, label) for label in labels}
  headers = {label: header.read(path) for label, path in files.items()}
  where = {}
  for label, found in headers.items():
    for tensor in found.entries:
      if tensor in where:
        raise ValueError(
            f'{folder}: {tensor} is both in {where[tensor]} and in {label}')
      where[tensor] = label
  if listed is not None:
    _agree(folder, listed, where)
  if not where:
    raise ValueError(f'{folder} holds no tensors')
  return Checkpoint(
      name, 'directory',
      {t: headers[label].entries[t].tensor for t, label in where.items()},
      functools.partial(_load, files, headers, where),
      functools.partial(_stream, files, headers), files,
      functools.partial(_cut, files, headers, where))


def index(folder: pathlib.Path) -> dict[str, str]:
  """Tensor -> file of the index; ValueError when it is missing or unsound."""
  path = folder / INDEX
  if not path.is_file():
    pickled = sorted(
        p.name for p in folder.iterdir() if p.suffix in PICKLED)
    raise ValueError(
        f'{folder} has pickled weights only ({pickled[0]}), which may run any '
        'code when they are read: save the model as safetensors' if pickled
        else f'{folder} has neither {SINGLE} nor {INDEX}')
  try:
    if path.stat().st_size > header.LARGEST:
      raise ValueError('too large')
    listed = json.loads(path.read_bytes())['weight_map']
    if not isinstance(listed, dict) or not listed:
      raise ValueError('weight_map is empty')
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise ValueError(f'{path} is damaged ({error}): copy it again') from error
  for tensor, file in listed.items():
    if not _plain(file):
      raise ValueError(f'{path} points outside its directory: '
                       f'{paths.shown(tensor)} is in {file!r}')
    for name in (tensor, file):
      if paths.is_odd(name):
        raise ValueError(f'{path} is damaged (the name {paths.shown(name)}): '
                         'copy it again')
  return listed


def _plain(file: Any) -> bool:
  """Whether it is the bare name of a safetensors file."""
  return (isinstance(file, str) and file.endswith('.safetensors')
          and not set(file) & set('/\\\0') and not file.startswith('.'))


def inside(folder: pathlib.Path, label: str) -> pathlib.Path:
  """The file of that name; ValueError if it is missing or a link to elsewhere.

  Links are followed within the directory. The cache of the Hugging Face hub
  is made of links from snapshots/REVISION to blobs, so these are followed too.
  """
  path = folder / label
  if not path.is_file():
    raise ValueError(f'{path} is missing: copy the checkpoint again')
  allowed = [folder.resolve()]
  if allowed[0].parent.name == 'snapshots':
    allowed.append(allowed[0].parent.parent / 'blobs')
  if not any(path.resolve().is_relative_to(root) for root in allowed):
    raise ValueError(f'{path} is a link that points outside its directory')
  return path


def _agree(
    folder: pathlib.Path, listed: dict[str, str], where: dict[str, str],
) -> None:
  for tensor in sorted(set(listed) | set(where)):
    if tensor not in where:
      raise ValueError(
          f'{folder}: {tensor} is in {INDEX}, but not in {listed[tensor]}')
    if listed.get(tensor) != where[tensor]:
      raise ValueError(
          f'{folder}: {tensor} is in {where[tensor]}, but {INDEX} says '
          f'{listed.get(tensor, "nothing of it")}')


def _load(
    files: dict[str, pathlib.Path], headers: dict[str, header.Header],
    where: dict[str, str], name: str, at: int | None = None,
) -> Shaped[np.ndarray, '...']:
  """A tensor, or only entry `at` of its leading axis."""
  label = where[name]
  (shape, dtype), start, _ = headers[label].entries[name]
  kind = DTYPES[dtype]
  if at is not None:
    shape = shape[1:]
    start += at * int(np.prod(shape)) * kind.itemsize
  found = np.fromfile(
      files[label], kind, count=int(np.prod(shape)), offset=start)
  if found.size != np.prod(shape):
    raise ValueError(f'{files[label]} became shorter while it was read')
  return found.reshape(shape)


def _cut(
    files: dict[str, pathlib.Path], headers: dict[str, header.Header],
    where: dict[str, str], name: str, index: tuple[slice, ...],
) -> Shaped[np.ndarray, '...']:
  """A part of a vector or matrix; rows are read whole, some at a time."""
  label = where[name]
  (shape, dtype), start, _ = headers[label].entries[name]
  kind = DTYPES[dtype]
  (low, high, _), *rest = (
      part.indices(size) for part, size in zip(index, shape, strict=True))
  columns = tuple(slice(*bounds) for bounds in rest)
  width = int(np.prod(shape[1:]))
  made = np.empty(
      (high - low, *(stop - at for at, stop, _ in rest)), kind)
  some = max(1, CHUNK // max(width * kind.itemsize, 1))
  with files[label].open('rb') as file:
    for row in range(low, high, some):
      count = min(some, high - row)
      file.seek(start + row * width * kind.itemsize)
      read = np.fromfile(file, kind, count * width)
      if read.size != count * width:
        raise ValueError(f'{files[label]} became shorter while it was read')
      made[row - low:row - low + count] = read.reshape(
          count, *shape[1:])[:, *columns]
  return made


def _stream(
    files: dict[str, pathlib.Path], headers: dict[str, header.Header],
) -> Iterator[tuple[str, str, bytes]]:
  """All bytes of all files in order: (file, tensor or '', bytes)."""
  for label, path in files.items():
    with path.open('rb') as file:
      yield label, '', file.read(headers[label].size)
      for name, entry in headers[label].entries.items():
        for data in chunks(file, entry.stop - entry.start, path):
          yield label, name, data


def chunks(
    file: IO[bytes], left: int, path: pathlib.Path) -> Iterator[bytes]:
  """The next `left` bytes of a file, or b'' where there are to be none."""
  if not left:
    yield b''
  while left:
    data = file.read(min(CHUNK, left))
    if not data:
      raise ValueError(f'{path} became shorter while it was read')
    left -= len(data)
    yield data
