"""Parameters from a Hugging Face directory, one tensor at a time.

Each process reads the slices that its devices own and nothing else. What the
host holds beyond the parameters is one layer of one of them, as it is stored.
"""
import functools
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, Shaped

from rlft.checkpoints import directory, tensor
from rlft.checkpoints.tensor import DTYPES, Checkpoint
from rlft.hf import architecture, names
from rlft.models import transformer
from rlft.ops import trees

Shapes = Mapping[str, tuple[int, ...]]


def shapes(folder: str | pathlib.Path) -> PyTree:
  """The parameters that a directory's config asks for, as shapes."""
  made = architecture.read(pathlib.Path(folder)).shape
  model = transformer.make(vocabulary=made['vocabulary'], shape=made)
  return jax.eval_shape(
      lambda key: transformer.initialise(model, key), jax.random.key(0))


def plan(
    folder: str | pathlib.Path, shapes: Shapes,
) -> tuple[Checkpoint, names.Plan]:
  """The checkpoint and where its tensors go; reads headers only.

  ValueError for whatever does not fit, see `names.plan`.
  """
  made = architecture.read(pathlib.Path(folder))
  found = directory.read(str(folder))
  return found, names.plan(shapes, made, found.tensors, str(folder))


def params(
    folder: str | pathlib.Path, like: PyTree, shardings: PyTree | None = None,
) -> PyTree:
  """Float32 parameters shaped as `like` (arrays or their shapes).

  `shardings` is a tree as `like`; without it everything goes to one device.
  ValueError names a tensor that holds NaN or infinity.
  """
  wanted = {path: x.shape for path, x in trees.named(like).items()}
  checkpoint, where = plan(folder, wanted)
  if where.twin:
    _same(checkpoint, where)
  laid = dict.fromkeys(wanted) if shardings is None else (
      trees.named(shardings))
  made = [
      _parameter(checkpoint, where.parameters[path], shape, laid[path])
      for path, shape in wanted.items()]
  return jax.tree.unflatten(jax.tree.structure(like), made)


def _parameter(
    checkpoint: Checkpoint, parameter: names.Parameter,
    shape: tuple[int, ...], sharding: jax.sharding.Sharding | None,
) -> Array:
  if not parameter.stacked:
    return _piece(
        checkpoint, parameter.tensors[0], parameter.transposed, shape,
        sharding).astype(jnp.float32)
  whole = jnp.zeros(shape, jnp.float32, device=sharding)
  piece = _one_layer(sharding)
  for layer, name in enumerate(parameter.tensors):
    whole = _put(whole, _piece(
        checkpoint, name, parameter.transposed, shape[1:], piece), layer)
  return whole


def _piece(
    checkpoint: Checkpoint, name: str, transposed: bool,
    shape: tuple[int, ...], sharding: jax.sharding.Sharding | None,
) -> Shaped[Array, '...']:
  """A tensor in its own dtype, over the devices of a sharding."""

  def read(index: tuple[slice, ...]) -> np.ndarray:
    if transposed:
      index = index[::-1]
    found = checkpoint.cut(name, index)
    if not tensor.finite(found):
      raise tensor.not_finite(checkpoint.name, name, then='')
    return found.T if transposed else found

  # One at a time: what the host reads is let go before the next is read.
  if sharding is None:
    # Bound to no device, as all else that a run begins with: of a state that is
    # in part, the first step's program would not be the second's.
    return jax.block_until_ready(
        jax.device_put(read((slice(None),) * len(shape))))
  return jax.block_until_ready(jax.make_array_from_callback(
      shape, sharding, read, dtype=DTYPES[checkpoint.tensors[name].dtype]))


def _one_layer(
    sharding: jax.sharding.Sharding | None) -> jax.sharding.Sharding | None:
  """The sharding of a stack's matrices."""
  if not isinstance(sharding, jax.sharding.NamedSharding):
    return sharding
  return jax.sharding.NamedSharding(
      sharding.mesh, jax.sharding.PartitionSpec(*sharding.spec[1:]))


@functools.partial(jax.jit, donate_argnums=0)
def _put(whole: Array, piece: Array, layer: int | Array) -> Array:
  return jax.lax.dynamic_update_index_in_dim(
      whole, piece.astype(whole.dtype), layer, axis=0)


def _same(checkpoint: Checkpoint, where: names.Plan) -> None:
  """A head that is tied to the embedding has to hold the same numbers."""
  embedding = where.parameters['embed/embedding'].tensors[0]
  rows = checkpoint.tensors[embedding].shape[0]
  step = 4096
  for start in range(0, rows, step):
    part = (slice(start, min(start + step, rows)), slice(None))
    one, other = (checkpoint.cut(name, part)
                  for name in (embedding, where.twin))
    if one.tobytes() != other.tobytes():
      raise ValueError(
          f'{checkpoint.name}: {where.twin} differs from {embedding}, but '
          'config.json ties them: set tie_word_embeddings to false')
