"""Writes a checkpoint again with some tensors exchanged."""
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable

import jax
import numpy as np

from rlft import weights
from rlft.checkpoints import directory as directories
from rlft.checkpoints import header
from rlft.checkpoints.tensor import Checkpoint
from rlft.training import checkpoint

# What belongs to a model beside its weights. Pickled files are never copied.
BESIDE = (
    '*.json', '*.txt', '*.model', '*.jinja', '*.tiktoken', '*.py', 'LICENSE*',
    'NOTICE*', 'additional_chat_templates/*.jinja')


def beside(folder: pathlib.Path) -> pathlib.Path:
  """A new temporary directory that can be renamed to `folder`."""
  parent = next(p for p in folder.absolute().parents if p.exists())
  if not parent.is_dir() or not os.access(parent, os.W_OK):
    raise ValueError(f'cannot write in {parent}: choose another --out')
  made = parent / f'.{folder.name}.unfinished-{os.getpid()}'
  made.mkdir()
  return made


def directory(
    found: Checkpoint, folder: pathlib.Path, names: set[str],
    changed: Callable[[str], Iterable[np.ndarray]],
) -> None:
  """A directory of safetensors: the same headers, other bytes of `names`.

  `changed` gives the arrays, in storage layout, that make up one tensor.
  """
  source = pathlib.Path(found.name)
  for path in _files(source):
    target = folder / path.relative_to(source)
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, target)
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
