"""How arrays lie on several devices: the mesh, its axes, and one table.

A mesh has three axes. Over `data` only rows are cut; over `fsdp` rows, and
parameters with their gradients and moments, which are gathered where they are
needed; over `tensor` what a layer computes: heads, hidden units, vocabulary.
TABLE says which axes of arrays are cut over which of them, PARAMETERS what the
axes of a parameter are called. An axis that does not split evenly is not cut.

Inside `over` every array is one of all devices, of all processes: what is not
cut lies everywhere, the same numbers in each. With one device there is no mesh,
and every function here is the identity.
"""
import contextlib
import contextvars
import math
import re
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

AXES = ('data', 'fsdp', 'tensor')
TABLE = {
    'rows': ('data', 'fsdp'),  # of batches, rollouts, caches and activations
    'groups': ('data',),  # of rows, while their width is cut
    'width': ('fsdp',),  # of the residual stream, in parameters only
    'heads': ('tensor',),  # of queries, keys and values, or all their numbers
    'hidden': ('tensor',),  # of the MLP
    'vocabulary': ('tensor',),
}
PARAMETERS = {  # a regex on the path: its last axes; others are not cut
    r'(query|key|value)/kernel$': ('width', 'heads'),
    r'(query|key|value)/bias$': ('heads',),
    r'(query|key|value)/a$': ('width', None),
    r'(query|key|value)/b$': (None, 'heads'),
    r'out/kernel$': ('heads', 'width'),
    r'out/a$': ('heads', None),
    r'out/b$': (None, 'width'),
    r'(gate|up)/kernel$': ('width', 'hidden'),
    r'(gate|up)/a$': ('width', None),
    r'(gate|up)/b$': (None, 'hidden'),
    r'down/kernel$': ('hidden', 'width'),
    r'down/a$': ('hidden', None),
    r'down/b$': (None, 'width'),
    r'embed/embedding$': ('vocabulary', 'width'),
    r'(^|/)head/kernel$': ('width', 'vocabulary'),
}


def devices() -> list[jax.Device]:
  """What a run may take."""
  chosen = _chosen.get()
  return jax.devices() if chosen is None else chosen


_chosen: contextvars.ContextVar[list[jax.Device] | None] = (
    contextvars.ContextVar('devices', default=None))


@contextlib.contextmanager
def choosing(devices: list[jax.Device]) -> Iterator[None]:
  """Inside, these are the devices that a run may take."""
  token = _chosen.set(devices)
  try:
    yield
  finally:
    _chosen.reset(token)


def make(*, data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh | None:
  """A mesh of the devices, one of its axes -1 for what is left; None for one.

  ValueError when the devices do not split so, when there are fewer, or when a
  process would have none.
  """
  known = devices()
  found = sizes(len(known), data=data, fsdp=fsdp, tensor=tensor)
  count = math.prod(found.values())
  if count < len(known) and jax.process_count() > 1:
    raise ValueError(
        f'{_said(found)} leaves out some of the {len(known)} devices of '
        f'{jax.process_count()} processes: choose -1')
  return None if count == 1 else of(known[:count], **found)


def sizes(count: int, *, data: int = -1, fsdp: int = 1, tensor: int = 1
          ) -> dict[str, int]:
  """Of a mesh of up to `count` devices, -1 filled in; ValueError as `make`."""
  found = dict(data=data, fsdp=fsdp, tensor=tensor)
  free = [k for k, v in found.items() if v == -1]
  if len(free) > 1 or any(type(v) is not int or (v < 1 and v != -1)
                          for v in found.values()):
    raise ValueError(
        f'{_said(found)}: sizes are whole numbers from 1 on, one of them '
        f'-1 for what is left; there are {count} devices')
  taken = math.prod(v for v in found.values() if v != -1)
  if taken > count or (free and count % taken):
    raise ValueError(
        f'{_said(found)}, but there are {count} devices, which '
        f'{"are fewer" if taken > count else "do not split so"}: choose '
        'sizes whose product is at most their number, or divides it')
  return found | dict.fromkeys(free, count // taken)


def _said(sizes: dict[str, int]) -> str:
  return ', '.join(f'mesh.{k}={v}' for k, v in sizes.items()
                   if v != 1 or k == 'data')


def of(
    known: Sequence[jax.Device], *, data: int, fsdp: int, tensor: int) -> Mesh:
  """A mesh of exactly these devices, laid along their network."""
  return Mesh(_along(known, (data, fsdp, tensor)), AXES,
              axis_types=(AxisType.Auto,) * len(AXES))


def _along(known, sizes):
  try:
    return mesh_utils.create_device_mesh(sizes, known)
  except NotImplementedError:
    # An axis is no product of the network's own sides, as 32 of 4 x 4 x 4: it
    # is laid across parts of them.
    return mesh_utils.create_device_mesh(
        sizes, known, allow_split_physical_axes=True)


@contextlib.contextmanager
def over(mesh: Mesh | None) -> Iterator[None]:
  """Inside, JAX computes on all devices of the mesh."""
  if mesh is None:
    yield
    return
  with jax.set_mesh(mesh):
    yield


_compiling_for: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    'platform', default=None)


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
  """Inside, programs are made for devices that this machine may not have."""
  token = _compiling_for.set(platform)
  try:
    yield
  finally:
    _compiling_for.reset(token)


def platform() -> str:
  """What programs run on: 'cpu', 'gpu' or 'tpu'."""
  return _compiling_for.get() or jax.default_backend()


def shape() -> dict[str, int]:
  """Axis -> devices along it; all 1 without a mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  return {axis: 1 if mesh.empty else mesh.shape.get(axis, 1) for axis in AXES}


def size() -> int:
  """The number of parts that rows are dealt out to."""
  return math.prod(shape()[axis] for axis in TABLE['rows'])


def spec(names: Sequence[str | None], dims: Sequence[int]) -> PartitionSpec:
  """Where an array of these dimensions is cut; `names` are of its last axes."""
  sizes = shape()
  names = (None,) * (len(dims) - len(names)) + tuple(names)[-len(dims):]
  cut = []
  for name, dim in zip(names, dims, strict=True):
    axes = tuple(a for a in TABLE.get(name, ()) if sizes[a] > 1)
    fits = axes and dim % math.prod(sizes[a] for a in axes) == 0
    cut.append(axes if fits else None)
  return PartitionSpec(*cut)


def of_parameter(
    path: str, dims: Sequence[int], *, but: str = '') -> PartitionSpec:
  """Where the parameter of this path, or a moment of it, is cut.

  All its axes are, but for those of the name `but`.
  """
  names = next((n for p, n in PARAMETERS.items() if re.search(p, path)), ())
  names = tuple(None if name == but else name for name in names)
  return spec(names if len(names) <= len(dims) else (), dims)


def shardings(tree: PyTree) -> PyTree | None:
  """The sharding of each parameter of a tree (arrays or shapes), by its path.

  None where there is no mesh.
  """
  mesh = jax.sharding.get_mesh()
  if mesh.empty:
    return None
  return _by_path(lambda path, x: NamedSharding(
      mesh, of_parameter(path, x.shape)), tree)


def parameters(tree: PyTree) -> PyTree:
  """Parameters, gradients or moments laid out by the table; in `jax.jit`."""
  return _by_path(lambda path, x: parameter(x, path), tree)


def parameter(x: jax.Array, path: str) -> jax.Array:
  """One of them, by its path."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, of_parameter(path, x.shape))


def gathered(tree: PyTree) -> PyTree:
  """Parameters whole along `fsdp`, still cut over `tensor`; in `jax.jit`.

  For a loop that reads them again and again: they are sent once, and before
  anything reads them. The TPU compiler would else send parts of the largest
  beside each product before the loop, and take minutes to compile those.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return tree

  return jax.lax.optimization_barrier(_by_path(
      lambda path, x: jax.lax.with_sharding_constraint(
          x, of_parameter(path, x.shape, but='width')), tree))


def placed(tree: PyTree) -> PyTree:
  """Parameters from anywhere as arrays of the mesh, cut by the table.

  Every process gives the same numbers, or arrays of all devices. None of the
  arrays is one that was given unless it lies on devices as it should.
  """
  if jax.sharding.get_mesh().empty:
    return jax.tree.map(
        lambda x: x if isinstance(x, jax.Array) else jnp.array(x), tree)
  return jax.tree.map(_place, tree, shardings(tree))


def _place(x: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
  if isinstance(x, jax.Array):
    if x.sharding.is_equivalent_to(sharding, x.ndim):
      return x
    return jax.jit(lambda x: x, out_shardings=sharding)(x)
  # Copied: an update gives its buffers away, and these may be the host's.
  return jax.make_array_from_callback(
      x.shape, sharding, lambda index: np.array(x[index]))


def rows(tree: PyTree, what: str = '') -> PyTree:
  """Deals out the leading axis; for use inside `jax.jit`.

  Rows that do not split evenly stay everywhere, or, where it is said `what`
  they are, raise ValueError.
  """
  count = size()
  if count == 1:
    return tree
  odd = [x.shape[0] for x in jax.tree.leaves(tree) if x.shape[0] % count]
  if odd:
    if what:
      split(min(odd), what)
    return tree
  return jax.tree.map(lambda x: named(x, 'rows', *[None] * (x.ndim - 1)), tree)


def split(count: int, what: str, parts: int | None = None) -> int:
  """`count`, if so many rows split over the devices, or `parts`; ValueError."""
  parts = parts or size()
  if count % parts:
    raise ValueError(
        f'{count} rows of {what} do not split over {parts} devices (mesh.data '
        f'x mesh.fsdp): take a multiple of {parts}, or a larger mesh.tensor')
  return count


def named(x: jax.Array, *names: str | None) -> jax.Array:
  """An array whose axes are these, cut where the table says so; in `jit`."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, spec(names, x.shape))


def everywhere(tree: PyTree) -> PyTree:
  """All numbers on every device; for use inside `jax.jit`."""
  if jax.sharding.get_abstract_mesh().empty:
    return tree
  return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(
      x, PartitionSpec()), tree)


def _by_path(lay, tree: PyTree) -> PyTree:
  return jax.tree_util.tree_map_with_path(
      lambda path, x: lay(
          jax.tree_util.keystr(path, simple=True, separator='/'), x), tree)
