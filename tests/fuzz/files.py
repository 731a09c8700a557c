"""Directories of safetensors, `KIND\\x1fREST`.

index  model.safetensors.index.json beside two sound files
table  the text of a header, whose length is put before it and DATA after it
raw    all bytes of model.safetensors
"""
import json
import pathlib
import struct
from collections.abc import Callable

import numpy as np
import safetensors.numpy

from rlft import paths
from rlft.checkpoints import directory
from tests.fuzz import mutation, rules

DATA = bytes(range(64))
SOUND = {'a.safetensors': {'x': np.ones((2, 3), np.float32)},
         'b.safetensors': {'y': np.zeros(4, np.float16),
                           'z': np.arange(3)}}


def make(folder: pathlib.Path) -> Callable[[str], str]:
  """See `targets`."""
  sharded, single = folder / 'sharded', folder / 'single'
  for place in (sharded, single):
    place.mkdir(exist_ok=True)
  for label, tensors in SOUND.items():
    safetensors.numpy.save_file(tensors, sharded / label)
  # what a label must not reach
  safetensors.numpy.save_file({'out': np.ones(1)}, folder / 'out.safetensors')
  link = sharded / 'link.safetensors'
  if not link.is_symlink():
    link.symlink_to(folder / 'out.safetensors')

  def call(text):
    kind, _, rest = text.partition('\x1f')
    content = mutation.as_bytes(rest)
    if kind == 'index':
      (sharded / directory.INDEX).write_bytes(content)
      return accept(sharded)
    if kind != 'raw':
      content = struct.pack('<Q', len(content)) + content + DATA
    (single / directory.SINGLE).write_bytes(content)
    return accept(single)
  return call


def accept(place: pathlib.Path) -> str:
  """Reads all that a directory offers; ValueError where it is refused."""
  found = directory.read(str(place))
  total = 0
  for path in found.files.values():
    rules.require(path.resolve().is_relative_to(place.resolve()),
                  f'{path} is outside')
    total += path.stat().st_size
  streamed = sum(len(data) for _, _, data in found.stream())
  rules.require(streamed == total, f'{streamed} bytes of {total}')
  for name, tensor in found.tensors.items():
    rules.require(not paths.is_odd(name), f'the name {name!r}')
    if tensor.dtype in directory.DTYPES:
      rules.require(found.read(name).shape == tensor.shape, f'{name}: shape')
  return 'read'


def seeds() -> list[str]:
  """Sound inputs of each kind, for the corpus."""
  where = {'x': 'a.safetensors', 'y': 'b.safetensors', 'z': 'b.safetensors'}
  index = json.dumps({'metadata': {'total_size': 56}, 'weight_map': where})
  entry = lambda dtype, shape, start, stop: dict(
      dtype=dtype, shape=shape, data_offsets=[start, stop])
  table = json.dumps({
      '__metadata__': {'format': 'pt'}, 'x': entry('F32', [2, 4], 0, 32),
      'y': entry('BF16', [16], 32, 64)})
  raw = struct.pack('<Q', len(table)) + table.encode() + DATA
  return [f'index\x1f{index}', f'table\x1f{table}',
          f'raw\x1f{raw.decode("latin-1")}']
