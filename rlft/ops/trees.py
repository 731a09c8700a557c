"""Parameter trees: names, matrices, distances and fingerprints.

A leaf is named by its path, `layers/attention/query/kernel`. Below a `layers`
component leaves are stacked over layers, so a kernel there is (L, M, N) and a
norm's scale is (L, D): not a matrix. Kernels act as x @ W (input x output).
"""
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree, UInt32

FROZEN = 'frozen'  # the group of parameters that has no gradient
BLOCKS = r'(^|/)(query|key|value|out|gate|up|down)/kernel$'


def named(tree: PyTree) -> dict[str, Any]:
  """Path -> leaf, in the tree's own order."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
      jax.tree_util.keystr(path, simple=True, separator='/'): leaf
      for path, leaf in leaves
  }


def matrices(params: PyTree, select: str = BLOCKS) -> dict[str, Array]:
  """Path -> '*L M N' of the leaves whose path matches the regex `select`.

  The default takes the linear maps of the blocks and leaves embeddings and
  head alone. Raises ValueError when nothing matches, or when a match is not a
  matrix (or stack of them).
  """
  try:
    wanted = re.compile(select)
  except re.error as error:
    raise ValueError(f'select={select!r} is no regex: {error}') from error
  leaves = named(params)
  found = {p: jnp.asarray(x) for p, x in leaves.items() if wanted.search(p)}
  if not found:
    raise ValueError(
        f'no parameter matches select={select!r}; known: {", ".join(leaves)}')
  for path, leaf in found.items():
    if leaf.ndim < 2 + ('layers' in path.split('/')[:-1]):
      raise ValueError(
          f'{path} of shape {leaf.shape} is not a matrix; narrow select')
  return found


def modules(paths: list[str]) -> dict[str, str]:
  """Path -> short name (`query`, `down`); the whole path where two collide."""
  short = {p: (p.split('/')[-2:-1] or [p])[0] for p in paths}
  names = list(short.values())
  return {p: s if names.count(s) == 1 else p for p, s in short.items()}


def replace(params: PyTree, arrays: dict[str, Array]) -> PyTree:
  """The tree with some leaves exchanged, by path; each keeps its dtype."""
  leaves = named(params)
  unknown = sorted(set(arrays) - set(leaves))
  if unknown:
    raise ValueError(
        f'no parameter {", ".join(unknown)}; known: {", ".join(leaves)}')
  for path, array in arrays.items():
    if array.shape != leaves[path].shape:
      raise ValueError(
          f'{path} has shape {leaves[path].shape}, not {array.shape}')
    leaves[path] = array.astype(leaves[path].dtype)
  return jax.tree.unflatten(jax.tree.structure(params), leaves.values())


def trained(params: Mapping[str, PyTree]) -> dict[str, PyTree]:
  """The groups of parameters that are updated: all but `FROZEN`."""
  return {k: v for k, v in params.items() if k != FROZEN}


def count(tree: PyTree) -> int:
  """Number of parameters."""
  return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(tree))


@jax.jit
def norm(tree: PyTree) -> Float[Array, '']:
  """Frobenius norm over all leaves."""
  squares = [
      jnp.sum(jnp.square(jnp.asarray(leaf).astype(jnp.float32)))
      for leaf in jax.tree.leaves(tree)
  ]
  return jnp.sqrt(sum(squares, start=jnp.zeros(())))


def distance(a: PyTree, b: PyTree) -> Float[Array, '']:
  """Frobenius norm of a - b over all leaves; ValueError if they differ."""
  same(a, b)
  return _distance(a, b)


@jax.jit
def _distance(a: PyTree, b: PyTree) -> Float[Array, '']:
  wide = lambda x: jnp.asarray(x).astype(jnp.float32)
  return norm(jax.tree.map(lambda x, y: wide(x) - wide(y), a, b))


def same(a: PyTree, b: PyTree) -> None:
  """ValueError unless both trees have the same names and shapes."""
  shapes = [{p: np.shape(x) for p, x in named(t).items()} for t in (a, b)]
  odd = sorted(
      p for p in shapes[0] | shapes[1] if shapes[0].get(p) != shapes[1].get(p))
  if odd:
    raise ValueError(
        f'the checkpoints are of different models: {odd[0]} is '
        f'{shapes[0].get(odd[0], "absent")} and '
        f'{shapes[1].get(odd[0], "absent")} ({len(odd)} such)')


def not_finite(tree: PyTree) -> list[str]:
  """Paths of the leaves that hold a number that is not finite."""
  sound = jax.device_get(_finite({
      path: x for path, x in named(tree).items()
      if jnp.issubdtype(x.dtype, jnp.inexact)}))
  return sorted(path for path, yes in sound.items() if not yes)


@jax.jit
def _finite(leaves: dict[str, Array]) -> dict[str, Bool[Array, '']]:
  return {path: jnp.isfinite(x).all() for path, x in leaves.items()}


@jax.jit
def copied(tree: PyTree) -> PyTree:
  """The same numbers in buffers of their own."""
  return jax.tree.map(jnp.copy, tree)


def fingerprint(tree: PyTree) -> str:
  """32 hex digits that depend on every bit, name, shape and dtype.

  The same for any sharding, mesh or number of processes, because the sums
  behind it wrap around and so do not depend on their order.
  """
  lines = [f'{p} {h}' for p, h in sorted(fingerprints(tree).items())]
  return hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:32]


def fingerprints(tree: PyTree) -> dict[str, str]:
  """Path -> 'dtype shape hash' of each leaf, hash of 16 hex digits."""
  kinds, sums, whole = {}, {}, {}
  for path, leaf in named(tree).items():
    leaf = leaf if hasattr(leaf, 'dtype') else np.asarray(leaf)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
      raise ValueError(f'{path} is {leaf.dtype}: fingerprint its parts instead')
    kinds[path] = f'{leaf.dtype} {list(leaf.shape)}'
    if isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) == 1:
      whole[path] = _storable(leaf)
      continue
    # One at a time: of the host's not all go to a device at once, and on CPUs
    # several sums over devices can wait for each other.
    sums[path] = jax.block_until_ready(_sums(_storable(leaf)))
  sums |= _all_sums(whole)
  return {
      path: f'{kinds[path]} {int(first):08x}{int(second):08x}'
      for path, (first, second) in jax.device_get(sums).items()
  }


def verify(
    found: Mapping[str, str], stored: Mapping[str, str], name: str) -> None:
  """ValueError unless each fingerprint found is that of the stored tensor."""
  for path, mark in found.items():
    if stored.get(path) != mark:
      raise ValueError(
          f'{name}: {path} is not what the file holds '
          f'({mark} against {stored.get(path, "no such tensor")}): it was '
          'changed, or not loaded, on the way; load it again by its name')


def _storable(leaf: Any) -> Any:
  """The leaf as plain numbers that JAX takes without dropping bits."""
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jax.random.key_data(leaf)
  if isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.itemsize == 8:
    return np.ascontiguousarray(leaf)[..., None].view(np.uint32)
  return leaf


@jax.jit
def _sums(leaf: Any) -> tuple[UInt32[Array, ''], UInt32[Array, '']]:
  """Two wrap-around sums over the leaf's words.

  The first is linear with odd weights, so one flipped bit always changes it;
  the second mixes word and position, so structured changes do not cancel.
  """
  if leaf.dtype == jnp.bool_:
    leaf = leaf.astype(jnp.uint8)
  width = 8 * min(leaf.dtype.itemsize, 4)
  words = jax.lax.bitcast_convert_type(leaf, f'uint{width}')
  words = words.astype(jnp.uint32)
  index = jnp.zeros(words.shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(words.ndim)):
    # Built from coordinates, not by a reshape, which would gather the shards.
    where = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    index = index + where * np.uint32(stride % 2**32)
    stride *= words.shape[axis]
  first = words * (_mix(index) | np.uint32(1))
  second = _mix(words ^ _mix(index + np.uint32(0x9e3779b9)))
  # One reduction of both: on CPUs nine times as fast as one of each.
  add = lambda x, y: (x[0] + y[0], x[1] + y[1])
  return tuple(jax.lax.reduce(
      (first, second), (np.uint32(0), np.uint32(0)), add,
      tuple(range(words.ndim))))


@jax.jit
def _all_sums(leaves: dict[str, Any]) -> dict[str, Any]:
  """One program for all of a tree, whatever shapes it has."""
  return {path: _sums(leaf) for path, leaf in leaves.items()}


def _mix(x: UInt32[Array, '...']) -> UInt32[Array, '...']:
  """A bijection of 32-bit words that avalanches (MurmurHash3's finaliser)."""
  x = (x ^ (x >> 16)) * np.uint32(0x85ebca6b)
  x = (x ^ (x >> 13)) * np.uint32(0xc2b2ae35)
  return x ^ (x >> 16)
