"""How arrays lie on several devices: rows dealt out, the rest everywhere.

Inside `over` every array is one of all devices, of all processes: the same
numbers in each, unless `rows` dealt them out. With one device there is no mesh,
and every function here is the identity.
"""
import contextlib
from collections.abc import Iterator

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec
from jaxtyping import PyTree

ROWS = 'data'  # the axis of the mesh that rows are dealt out over


def devices() -> list[jax.Device]:
  """What a run may take."""
  return jax.devices()


def make(*, data: int = -1) -> Mesh | None:
  """A mesh of `data` devices, -1 being all; None for a single one.

  ValueError when there are fewer, or when a process would have none.
  """
  known = devices()
  count = len(known) if data == -1 else data
  if not 1 <= count <= len(known):
    raise ValueError(f'mesh.data={data}, but there are {len(known)} devices: '
                     'choose -1 for all of them, or fewer')
  if count < len(known) and jax.process_count() > 1:
    raise ValueError(
        f'mesh.data={data} leaves out some of the {len(known)} devices of '
        f'{jax.process_count()} processes: choose -1')
  if count == 1:
    return None
  return jax.make_mesh(
      (count,), (ROWS,), devices=known[:count], axis_types=(AxisType.Auto,))


@contextlib.contextmanager
def over(mesh: Mesh | None) -> Iterator[None]:
  """Inside, JAX computes on all devices of the mesh."""
  if mesh is None:
    yield
    return
  with jax.set_mesh(mesh):
    yield


def size() -> int:
  """The number of devices that rows are dealt out over."""
  mesh = jax.sharding.get_abstract_mesh()
  return 1 if mesh.empty else mesh.shape[ROWS]


def rows(tree: PyTree, what: str = '') -> PyTree:
  """Deals out the leading axis; for use inside `jax.jit`.

  Rows that do not split evenly stay everywhere, or, where it is said `what`
  they are, raise ValueError.
  """
  count = size()
  if count == 1:
    return tree
  sizes = {x.shape[0] for x in jax.tree.leaves(tree)}
  if any(n % count for n in sizes):
    if what:
      raise ValueError(
          f'{min(sizes)} rows of {what} do not split over {count} devices: '
          f'take a multiple of {count}, or set mesh.data')
    return tree
  return _laid(tree, PartitionSpec(ROWS))


def everywhere(tree: PyTree) -> PyTree:
  """All numbers on every device; for use inside `jax.jit`."""
  return tree if size() == 1 else _laid(tree, PartitionSpec())


def _laid(tree: PyTree, spec: PartitionSpec) -> PyTree:
  return jax.tree.map(
      lambda x: jax.lax.with_sharding_constraint(x, spec), tree)
