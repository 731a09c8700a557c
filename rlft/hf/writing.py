"""A Hugging Face directory from parameters, laid out as another one is."""
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree, Shaped

from rlft.checkpoints import directory, rewrite, tensor
from rlft.checkpoints.tensor import DTYPES, Checkpoint
from rlft.hf import architecture, kept, names, reading
from rlft.ops import trees


def layout(folder: pathlib.Path) -> Checkpoint:
  """The files and tensors of a directory, or what was kept of one."""
  if (folder / kept.LAYOUT).is_dir():
    return kept.read(folder)
  return directory.read(str(folder))


def write(policy: PyTree, like: pathlib.Path, folder: pathlib.Path) -> int:
  """Writes the policy into `folder`, which is new, in the layout of `like`.

  The same files with the same tensors in the same order and dtypes; what is no
  parameter of the policy is copied. Returns the number of tensors that are the
  policy's. ValueError when the policy does not fit the layout, and for numbers
  that are not finite in the dtype of the layout.
  """
  leaves = trees.named(policy)
  made, found = architecture.read(like), layout(like)
  _fits(leaves, like)
  where = names.plan(
      {path: x.shape for path, x in leaves.items()}, made, found.tensors,
      str(like))
  source = {name: (path, layer if p.stacked else None, p.transposed)
            for path, p in where.parameters.items()
            for layer, name in enumerate(p.tensors)}
  if where.twin:
    source[where.twin] = ('embed/embedding', None, False)

  def changed(name: str) -> Iterator[Shaped[np.ndarray, '...']]:
    path, layer, transposed = source[name]
    x = leaves[path] if layer is None else leaves[path][layer]
    x = np.asarray(jax.device_get(x))
    yield _stored(x.T if transposed else x, name, found)

  rewrite.directory(found, folder, set(source), changed)
  return len(source)


def _fits(leaves: dict[str, Any], like: pathlib.Path) -> None:
  """ValueError for a policy of another architecture than a directory's."""
  have = {path: tuple(x.shape) for path, x in leaves.items()}
  asked = {path: x.shape for path, x in trees.named(
      reading.shapes(like)).items()}
  odd = sorted(path for path in have | asked
               if have.get(path) != asked.get(path))
  if odd:
    one = lambda shapes: list(shapes[odd[0]]) if odd[0] in shapes else 'absent'
    raise ValueError(
        f'the checkpoint and {like} are of different architectures: '
        f'{odd[0]} is {one(have)} and {one(asked)} ({len(odd)} such): name a '
        'directory of the same, --like=HF_DIR')


def _stored(
    x: Any, name: str, found: Checkpoint,
) -> Shaped[np.ndarray, '...']:
  kind = found.tensors[name].dtype
  with np.errstate(over='ignore'):
    stored = np.ascontiguousarray(x.astype(DTYPES[kind]))
  if not tensor.finite(stored):
    raise ValueError(
        f'{name} is not finite in {kind}: take an earlier checkpoint')
  return stored
