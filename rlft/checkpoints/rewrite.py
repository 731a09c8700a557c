"""Writes a checkpoint again with some tensors exchanged."""
import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np

from rlft import paths, weights
from rlft.checkpoints import directory as directories
from rlft.checkpoints import header
from rlft.checkpoints.tensor import Checkpoint
from rlft.training import checkpoint

# What belongs to a model beside its weights. Pickled files are never copied.
BESIDE = (
    '*.json', '*.txt', '*.model', '*.jinja', '*.tiktoken', '*.py', 'LICENSE*',
    'NOTICE*', 'additional_chat_templates/*.jinja')


@contextlib.contextmanager
def whole(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """A temporary directory beside `folder`, which it becomes at the end.

  What fails on the way leaves nothing. ValueError where nothing can be written,
  or where `folder` is there already.
  """
  refuse(folder)
  parent = next(p for p in folder.absolute().parents if p.exists())
  made = parent / f'.{folder.name}.unfinished-{os.getpid()}'
  try:
    made.mkdir()
  except OSError as error:
    raise ValueError(f'cannot write in {parent} ({error.strerror}): choose '
                     'another --out') from error
  try:
    yield made
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.rename(made, folder)
  finally:
    shutil.rmtree(made, ignore_errors=True)


def refuse(folder: pathlib.Path) -> None:
  """ValueError when there is something already, or the name is none."""
  paths.chosen(folder, '--out')
  if folder.exists() or folder.is_symlink():
    raise ValueError(f'{folder} is there already: choose another --out')


def directory(
    found: Checkpoint, folder: pathlib.Path, names: set[str],
    changed: Callable[[str], Iterable[np.ndarray]],
) -> None:
  """A directory of safetensors: the same headers, other bytes of `names`.

  `changed` gives the arrays, in storage layout, that make up one tensor.
  """
  source = pathlib.Path(found.name)
  copy_beside(source, folder)
  done, file, label = set(), None, ''
  try:
    for where, name, data in found.stream():
      if where != label:
        _close(file)
        file, label = (folder / where).open('xb'), where
      if name not in names:
        file.write(data)
      elif name not in done:
        done.add(name)
        for array in changed(name):
          file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
          del array  # or it stands beside the making of the next one
  finally:
    _close(file)
  for label in found.files:  # what was written is read as anyone would
    header.read(folder / label)


def copy_beside(source: pathlib.Path, folder: pathlib.Path) -> None:
  """Copies what belongs to a model beside its weights."""
  for path in _files(source):
    target = folder / path.relative_to(source)
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, target)


def _files(source: pathlib.Path) -> list[pathlib.Path]:
  """What is copied as it is: no weights, and no index of other weights."""
  sharded = not (source / directories.SINGLE).is_file()
  keep = lambda name: name != 'heal.json' and (
      not name.endswith('.index.json')
      or (sharded and name == directories.INDEX))
  found = sorted({p for pattern in BESIDE for p in source.glob(pattern)})
  return [
      directories.inside(source, str(path.relative_to(source)))
      for path in found if path.is_file() and keep(path.name)]


def _close(file) -> None:
  if file is not None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


def run(
    name: str, folder: pathlib.Path, changed: dict[str, np.ndarray]) -> None:
  """A run directory with the one step of `name`, its policy's leaves changed.

  It holds parameters and config, so it can be evaluated and started from, but
  no optimizer: such a run cannot be continued.
  """
  params = weights.load(name)
  flat = weights.flatten(params['policy']) | changed
  params = {**params, 'policy': weights.nest(flat)}
  (folder / 'config.json').write_text(
      json.dumps(weights.config_of(name), indent=2, sort_keys=True) + '\n')
  checkpoint.save_params(
      folder, weights.step_of(name), jax.tree.map(jax.numpy.asarray, params))
