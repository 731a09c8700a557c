"""Checkpoints as named tensors that are read one at a time.

`checkpoints.open(name)` takes a directory of safetensors files in the layout of
Hugging Face, `RUN_DIR@STEP` or `asset:NAME`. Nothing but headers is read until
a tensor is asked for.
"""
import pathlib

from rlft.checkpoints import directory, runs
from rlft.checkpoints.tensor import Checkpoint


def open(name: str) -> Checkpoint:
  """The checkpoint of that name; ValueError says what is wrong with it."""
  if is_run(name):
    return runs.read(name)
  return directory.read(name)


def is_run(name: str) -> bool:
  """Whether a name is an asset or RUN_DIR@STEP, and no existing directory."""
  if name.startswith('asset:'):
    return True
  return '@' in pathlib.PurePath(name).name and not pathlib.Path(name).is_dir()
