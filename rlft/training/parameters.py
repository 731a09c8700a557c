"""Parameters of a checkpoint alone, where they are needed."""
import functools

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from rlft.ops import sharding
from rlft.training import store


def shapes(folder: store.Where) -> PyTree:
  """Of what Orbax saved there; reads no data."""
  found = ocp.PyTreeCheckpointHandler().metadata(folder)
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(tuple(x.shape), np.dtype(x.dtype)),
      getattr(found, 'tree', found))


def read(folder: store.Where) -> PyTree:
  """All of them: on a mesh laid out by its table, else the host's.

  On a mesh each process reads what its devices hold, and no more.
  """
  with ocp.StandardCheckpointer() as reader:
    if jax.sharding.get_mesh().empty:
      return jax.tree.map(np.asarray, reader.restore(folder))
    saved = shapes(folder)
    return reader.restore(folder, jax.tree.map(
        lambda x, at: x.update(sharding=at), saved, sharding.shardings(saved)))


def leaf(folder: store.Where, path: str) -> PyTree:
  """One of them, as the host's, in a tree of its own: 'policy/head/kernel'."""
  nest = lambda x: functools.reduce(
      lambda y, word: {word: y}, path.split('/')[::-1], x)
  with ocp.PyTreeCheckpointer() as reader:
    return reader.restore(folder, args=ocp.args.PyTreeRestore(
        item=nest(0), restore_args=nest(ocp.RestoreArgs(np.ndarray)),
        partial_restore=True))
