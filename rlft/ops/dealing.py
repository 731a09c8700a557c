"""Rows of the host's on the devices of several processes.

Each process makes the rows that its devices hold; see `sharding` for which.
"""
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from rlft.ops import sharding


def held(count: int) -> list[int]:
  """Which of so many rows the devices of this process have, in order.

  Several processes may have the same ones. All of them, as without a mesh,
  where they do not split evenly.
  """
  mesh = jax.sharding.get_mesh()
  if mesh.empty:
    return list(range(count))
  cut = NamedSharding(mesh, sharding.spec(('rows',), (count,)))
  return sorted({i for index, in cut.addressable_devices_indices_map(
      (count,)).values() for i in range(count)[index]})


def dealt(tree: PyTree) -> PyTree:
  """Rows of the host's as arrays of all devices, dealt out as `rows` does.

  Of each process only the rows that it holds are looked at.
  """
  mesh = jax.sharding.get_mesh()
  if mesh.empty:
    return tree
  return jax.tree.map(lambda x: jax.make_array_from_callback(
      x.shape, NamedSharding(mesh, sharding.spec(
          ('rows', *[None] * (x.ndim - 1)), x.shape)),
      lambda index: x[index]), tree)


def largest(x: np.ndarray) -> np.ndarray:
  """The largest number that any process gives at each place, in all of them.

  All of them call it, inside `over`; without a mesh it gives what it is given.
  The first axis is sent as long as the next power of two: few programs.
  """
  if jax.process_count() == 1 or jax.sharding.get_mesh().empty:
    return x
  sent = np.zeros((1 << (len(x) - 1).bit_length(), *x.shape[1:]), x.dtype)
  sent[:len(x)] = x
  return multihost_utils.process_allgather(sent).max(axis=0)[:len(x)]
