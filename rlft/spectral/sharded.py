"""Kernels of single matrices over all the devices of a mesh.

The matrices of a checkpoint are dealt out to the devices by cost
(`packing.py`): every device works on whole matrices, so that no kernel
communicates. Matrices that are cut inside (fsdp, tensor axes) or between
layers get there by one all-to-all per shape, dtype and layout; nothing is
gathered. Places that a device holds for shape's sake only are zero, are not
worked on and not read.
"""
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PyTree

from rlft.spectral import packing

Stacks = dict[str, Float[Any, '*L _ _']]  # by path; NumPy's or JAX's
Specs = dict[str, PartitionSpec]


def mesh_of(tree: PyTree) -> Mesh | None:
  """The mesh that the arrays live on; None when that is one device."""
  for leaf in jax.tree.leaves(tree):
    at = getattr(leaf, 'sharding', None)
    if isinstance(at, NamedSharding) and at.mesh.size > 1:
      return at.mesh
  return None


def stacks(
    kernel: Callable, *arguments: Stacks, mesh: Mesh,
    specs: Specs | None = None, rows: dict[str, PyTree] | None = None,
    **options: Any,
) -> dict[str, PyTree]:
  """kernel(matrix, ...) of every matrix of '*L M N' stacks: path -> '*L ...'.

  Each argument of the kernel is a dict of stacks, of the same paths and
  shapes; `rows` adds one of small arrays with a leading *L (keys, say), and
  `options` are hashable keywords. Results lie on as many devices as their axes
  can be divided by. Inside jit, where arrays do not say where they live,
  `specs` does: ValueError without it, or when stacks do not match.
  """
  mesh = _automatic(mesh)
  found = {}
  for bucket, packed in _run(kernel, arguments, mesh, specs, rows, options):
    found |= _unpacked(packed, bucket=bucket, mesh=mesh)
  return {path: found[path] for path in arguments[0]}


def tables(
    kernel: Callable, *arguments: Stacks, mesh: Mesh,
    rows: dict[str, PyTree] | None = None, **options: Any,
) -> dict[str, PyTree]:
  """The same of kernels that return little: NumPy arrays, on the host."""
  mesh = _automatic(mesh)
  # All buckets are under way before the first is waited for.
  work = list(_run(kernel, arguments, mesh, None, rows, options))
  found = {}
  for bucket, packed in work:
    host = jax.device_get(_everywhere(packed, mesh=mesh))
    found |= _split(host, bucket, mesh)
  return {path: found[path] for path in arguments[0]}


def resting(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
  """Each axis of the mesh on the first axis that it still divides evenly."""
  left, spec = list(shape), [() for _ in shape]
  for name, size in mesh.shape.items():
    for axis, length in enumerate(left):
      if length % size == 0:
        left[axis], spec[axis] = length // size, (*spec[axis], name)
        break
  return PartitionSpec(*spec)


def _automatic(mesh: Mesh) -> Mesh:
  """The mesh with axes that XLA and shard_map may use freely."""
  return Mesh(mesh.devices, mesh.axis_names,
              axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def _run(
    kernel: Callable, arguments: tuple[Stacks, ...], mesh: Mesh,
    specs: Specs | None, rows: dict[str, PyTree] | None,
    options: dict[str, Any],
) -> Iterator[tuple[packing.Bucket, PyTree]]:
  """Buckets with their results, in the order of devices and their slots."""
  known, placed = [], {}
  everywhere = NamedSharding(mesh, PartitionSpec())
  for path, first in arguments[0].items():
    same = [argument[path] for argument in arguments]
    if len({x.shape for x in same}) > 1:
      raise ValueError(f'{path}: {" and ".join(str(x.shape) for x in same)} '
                       'are no two arguments of one kernel')
    spec = specs[path] if specs else _spec(path, first, mesh)
    placed[path] = [_place(x, NamedSharding(mesh, spec)) for x in same]
    known.append(packing.Stack(
        path, first.shape, str(jnp.result_type(*placed[path])),
        _axes(spec, first.ndim)))
  for bucket in packing.pack(known, mesh.size):
    blocks = tuple(tuple(placed[stack.path]) for stack in bucket.stacks)
    extra = rows and jax.tree.map(
        lambda *x: _place(jnp.concatenate(x), everywhere),
        *(_flat(rows[s.path], len(s.shape) - 2) for s in bucket.stacks))
    yield bucket, _bucket(
        blocks, extra, kernel=kernel, options=tuple(sorted(options.items())),
        bucket=bucket, mesh=mesh)


def _spec(path: str, x: Array | np.ndarray, mesh: Mesh) -> PartitionSpec:
  """How a stack lies on the mesh; for one that does not, how it shall."""
  if isinstance(x, jax.core.Tracer):
    raise ValueError(
        f'{path} does not say inside jit how it is sharded: give specs')
  at = getattr(x, 'sharding', None)
  if isinstance(at, NamedSharding) and _automatic(at.mesh) == mesh:
    return at.spec
  return resting(x.shape, mesh)


def _place(x: Array | np.ndarray, at: NamedSharding) -> Array:
  if isinstance(x, jax.core.Tracer):
    return jax.lax.with_sharding_constraint(x, at)
  if at.is_fully_addressable:
    return jax.device_put(x, at)
  return _moved(at)(x)  # device_put takes no keys to other processes


@functools.lru_cache
def _moved(at: NamedSharding) -> Callable:
  return jax.jit(lambda x: x, out_shardings=at)


def _axes(spec: PartitionSpec, ndim: int) -> tuple[packing.Axes, ...]:
  entries = [*spec, *[None] * (ndim - len(spec))]
  return tuple(
      () if e is None else (e,) if isinstance(e, str) else tuple(e)
      for e in entries)


def _flat(tree: PyTree, ndim: int) -> PyTree:
  """The leading *L of every array as one axis."""
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[ndim:]), tree)


@functools.partial(
    jax.jit, static_argnames=('kernel', 'options', 'bucket', 'mesh'))
def _bucket(
    blocks: tuple[tuple[Array, ...], ...], extra: PyTree, *, kernel: Callable,
    options: tuple, bucket: packing.Bucket, mesh: Mesh,
) -> PyTree:
  """One bucket: the transfer, then each device by itself."""
  work = functools.partial(
      _work, kernel=functools.partial(kernel, **dict(options)), bucket=bucket,
      sizes=dict(mesh.shape))
  layout = tuple(
      tuple(PartitionSpec(*stack.axes) for _ in same)
      for stack, same in zip(bucket.stacks, blocks, strict=True))
  return jax.shard_map(
      work, mesh=mesh, in_specs=(layout, PartitionSpec()),
      out_specs=PartitionSpec(mesh.axis_names), check_vma=False)(blocks, extra)


def _work(
    blocks: tuple[tuple[Array, ...], ...], extra: PyTree, *, kernel: Callable,
    bucket: packing.Bucket, sizes: dict[str, int],
) -> PyTree:
  """What one device does: C slots, of which it works on those in use."""
  device = jax.lax.axis_index(tuple(sizes))
  tables = packing.moves(bucket, sizes)._asdict()
  own = {k: jnp.asarray(x, jnp.int32)[device] for k, x in tables.items()}
  matrices = _receive(blocks, own, bucket, sizes)

  def solve(slot):
    row = jax.tree.map(lambda x: x[own['matrix'][slot]], extra)
    return kernel(*(x[slot] for x in matrices),
                  *(() if extra is None else (row,)))

  def step(slot, done):
    return jax.tree.map(
        lambda all_, one: all_.at[slot].set(one), done, solve(slot))

  places = len(own['matrix'])
  empty = jax.tree.map(lambda x: jnp.zeros((places, *x.shape), x.dtype),
                       jax.eval_shape(solve, 0))
  return jax.lax.fori_loop(0, own['count'], step, empty)


def _receive(
    blocks: tuple[tuple[Array, ...], ...], own: dict[str, Int[Array, '...']],
    bucket: packing.Bucket, sizes: dict[str, int],
) -> list[Float[Array, 'C M N']]:
  """Whole matrices of this device's slots, one array per argument."""
  arguments = len(blocks[0])
  *_, m, n = blocks[0][0].shape
  flat = jnp.concatenate([
      jnp.stack([x.reshape(-1, m * n).astype(stack.dtype) for x in same], 1)
      for stack, same in zip(bucket.stacks, blocks, strict=True)])
  parcels = flat[own['send']]  # (A, S, arguments, m n)
  axes = packing.exchanged(bucket, sizes)
  if axes:
    parcels = jax.lax.all_to_all(parcels, axes, 0, 0, tiled=True)
  parcels = parcels.reshape(*(sizes[a] for a in axes), *parcels.shape[1:])
  lead, (high, wide) = bucket.lead, bucket.inside
  order = [axes.index(a) for a in (*lead, *high, *wide)]
  parcels = parcels.transpose(*order, *range(len(axes), parcels.ndim))
  parts, rows, columns = (
      int(np.prod([sizes[a] for a in group])) for group in (lead, high, wide))
  parcels = parcels.reshape(
      parts, rows, columns, -1, arguments, m, n).transpose(0, 3, 4, 1, 5, 2, 6)
  found = parcels[own['owner'], own['place']]  # (C, arguments, rows, m, ...)
  found = found.reshape(-1, arguments, rows * m, columns * n)
  return [found[:, i] for i in range(arguments)]


@functools.partial(jax.jit, static_argnames='mesh')
def _everywhere(tree: PyTree, *, mesh: Mesh) -> PyTree:
  """Small tables on every device, so that every process can read them."""
  return jax.lax.with_sharding_constraint(
      tree, NamedSharding(mesh, PartitionSpec()))


@functools.partial(jax.jit, static_argnames=('bucket', 'mesh'))
def _unpacked(
    packed: PyTree, *, bucket: packing.Bucket, mesh: Mesh,
) -> dict[str, PyTree]:
  """Stacks again, laid out over the mesh."""
  lay = lambda x: jax.lax.with_sharding_constraint(
      x, NamedSharding(mesh, resting(x.shape, mesh)))
  return jax.tree.map(lay, _split(packed, bucket, mesh))


def _split(
    packed: PyTree, bucket: packing.Bucket, mesh: Mesh,
) -> dict[str, PyTree]:
  """Path -> '*L ...' from results in the order of devices and slots."""
  where, found, start = packing.where(bucket, mesh.size), {}, 0
  for stack in bucket.stacks:
    lead = stack.shape[:-2]
    stop = start + int(np.prod(lead))
    own, start = where[start:stop], stop
    found[stack.path] = jax.tree.map(
        lambda x, own=own, lead=lead: x[own].reshape((*lead, *x.shape[1:])),
        packed)
  return found
