"""RUN_DIR@STEP and asset:NAME as named tensors; only the policy is taken.

The leaves of a run are stacks over layers, and one leaf is read at a time: so
memory goes with the largest stack, not with the model. Adapters are merged, one
kernel at a time. An asset is small, and is loaded whole.
"""
import functools
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Shaped

from rlft import weights
from rlft.adapters import lora
from rlft.checkpoints.tensor import CHUNK, DTYPES, Checkpoint, Tensor
from rlft.training import checkpoint


def read(name: str) -> Checkpoint:
  """The policy of a run or asset; ValueError says what is wrong with it."""
  if name.startswith('asset:'):
    arrays = weights.flatten(weights.load_asset(name.removeprefix('asset:')))
    shapes = {k: (v.shape, v.dtype) for k, v in arrays.items()}
    load = arrays.__getitem__
  else:
    stored = checkpoint.leaves(name)
    shapes = {k: stored[v] for k, v in lora.policy_leaves(stored).items()}
    load = lambda leaf: lora.load_leaf(
        leaf, stored, functools.partial(checkpoint.load_leaf, name))
  spelled = {v: k for k, v in DTYPES.items()}
  tensors = {k: Tensor(shape, spelled.get(dtype, str(dtype)))
             for k, (shape, dtype) in shapes.items()}
  return Checkpoint(
      name, 'run', tensors, functools.partial(_load, load),
      functools.partial(_stream, list(tensors), load), {},
      lambda leaf, index: load(leaf)[index])


def _load(
    load: Callable[[str], np.ndarray], name: str, at: int | None = None,
) -> Shaped[np.ndarray, '...']:
  found = load(name)
  return found if at is None else found[at]


def _stream(
    names: list[str], load: Callable[[str], np.ndarray],
) -> Iterator[tuple[str, str, memoryview]]:
  """The bytes of all leaves, which are in no file of their own."""
  for name in names:
    data = np.ascontiguousarray(load(name)).reshape(-1).view(np.uint8)
    for start in range(0, max(data.size, 1), CHUNK):
      yield '', name, data[start:start + CHUNK].data
