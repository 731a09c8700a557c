"""Factors of a checkpoint, computed once and shared by edits and angles."""
import hashlib
import json
import os
import tempfile
import warnings
from collections import OrderedDict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from rlft.ops import trees
from rlft.spectral import sharded, svd

FORMAT = 1  # of the files; another number is another key
KERNEL = 'full'  # how the factors are made: also part of the key


class Cache:
  """Factors by the content of their matrices; in memory, or in a folder.

  The key is the SHA-256 of a stack's bytes with its dtype, its shape and the
  kernel, so a changed weight is another key and a renamed one is not. At most
  `limit` bytes are kept (4 GiB unless told otherwise): the least recently used
  go first, and a stack whose factors are larger than that is not kept at all.
  A file holds its own SHA-256; one that is damaged or does not fit is named in
  a warning and computed again. Several processes may share a folder.
  """

  def __init__(
      self, folder: str | Path | None = None, *, limit: int = 4 * 2**30):
    self.folder = None if folder is None else Path(folder)
    self.limit = limit
    self._memory: OrderedDict[str, svd.SVD] = OrderedDict()
    if self.folder is not None:
      try:
        self.folder.mkdir(parents=True, exist_ok=True)
      except OSError as error:
        raise ValueError(
            f'cannot keep factors in {self.folder} ({error.strerror}): choose '
            'another folder') from error

  def get(self, stack: Float[Array, '*L M N']) -> svd.SVD:
    """The factors of a stack: those kept, or newly made."""
    key = _key(stack)
    found = self._read(key, stack)
    if found is None:
      found = svd.decompose(stack)
      if _size(found) <= self.limit:
        self._write(key, found)
    return found

  def _read(self, key: str, stack: Array) -> svd.SVD | None:
    if self.folder is None:
      if key in self._memory:
        self._memory.move_to_end(key)
      return self._memory.get(key)
    path = self.folder / f'{key}.safetensors'
    try:
      data = path.read_bytes()
    except FileNotFoundError:
      return None
    try:
      found = _parse(data, stack)
    except (ValueError, KeyError, safetensors.SafetensorError) as error:
      warnings.warn(
          f'{path} is damaged ({error}): its factors are computed again',
          stacklevel=4)
      return None
    os.utime(path)
    return found

  def _write(self, key: str, factors: svd.SVD) -> None:
    if self.folder is None:
      self._memory[key] = factors
      while sum(map(_size, self._memory.values())) > self.limit:
        self._memory.popitem(last=False)
      return
    arrays = {k: np.asarray(v) for k, v in factors._asdict().items()}
    # A file of its own first: nobody reads it half-written.
    handle, name = tempfile.mkstemp(dir=self.folder, suffix='.tmp')
    try:
      with os.fdopen(handle, 'wb') as file:
        file.write(safetensors.numpy.save(
            arrays, metadata={'sha256': _digest(arrays)}))
      os.replace(name, self.folder / f'{key}.safetensors')
    except BaseException:
      Path(name).unlink(missing_ok=True)
      raise
    self._trim()

  def _trim(self) -> None:
    """Removes the files that were used longest ago, down to the limit."""
    files = []
    for path in self.folder.glob('*.safetensors'):
      try:
        files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
      except FileNotFoundError:  # another process was faster
        continue
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
      if total <= self.limit:
        break
      path.unlink(missing_ok=True)
      total -= size


def bases(
    params: PyTree, select: str = trees.BLOCKS, cache: Cache | None = None,
    mesh: Mesh | None = None,
) -> dict[str, svd.SVD]:
  """Path -> SVD of the selected matrices.

  Stacks that lie on a mesh, or any if `mesh` is given, are factored by all of
  its devices. Raises ValueError with the name of a matrix that is not finite
  (LAPACK would hand back NaN without a word), or for a cache, which is one
  host's, beside a mesh.
  """
  stacks = trees.matrices(params, select)
  for path, stack in stacks.items():
    refuse_infinite(path, stack)
  mesh = mesh or sharded.mesh_of(stacks)
  if mesh is not None:
    if cache is not None:
      raise ValueError('a cache of factors is of one device: leave out the '
                       'cache, or the mesh')
    return sharded.stacks(svd.decompose, stacks, mesh=mesh)
  return {p: factors(p, x, cache) for p, x in stacks.items()}


def factors(
    path: str, stack: Float[Array, '*L M N'], cache: Cache | None = None,
) -> svd.SVD:
  """SVD of one stack; ValueError with its name where it is not finite."""
  refuse_infinite(path, stack)
  return svd.decompose(stack) if cache is None else cache.get(stack)


def refuse_infinite(path: str, stack: Float[Array, '*L M N']) -> None:
  """ValueError with name and layer of a matrix that has no factors."""
  finite = np.asarray(_finite(stack))
  if not finite.all():
    layer = f', layer {int(np.argmin(finite))}' if finite.ndim else ''
    raise ValueError(
        f'{path}{layer} holds NaN or infinity: no singular values; '
        'take an earlier checkpoint')


@jax.jit
def _finite(stack: Float[Array, '*L M N']) -> Array:
  return jnp.isfinite(stack).all(axis=(-2, -1))


def _key(stack: Float[Array, '*L M N']) -> str:
  host = np.ascontiguousarray(stack)
  about = f'{FORMAT} {KERNEL} {host.dtype} {list(host.shape)}'
  return hashlib.sha256(about.encode() + host.tobytes()).hexdigest()


def _digest(arrays: dict[str, np.ndarray]) -> str:
  total = hashlib.sha256()
  for name in sorted(arrays):
    total.update(f'{name} {list(arrays[name].shape)}'.encode())
    total.update(np.ascontiguousarray(arrays[name]).tobytes())
  return total.hexdigest()


def _parse(data: bytes, stack: Array) -> svd.SVD:
  """Factors of the stack from a file; ValueError for anything else."""
  arrays = safetensors.numpy.load(data)
  size = int.from_bytes(data[:8], 'little')
  text = data[8:8 + size].decode()
  noted = json.loads(text).get('__metadata__', {}).get('sha256')
  if set(arrays) != set(svd.SVD._fields) or noted != _digest(arrays):
    raise ValueError('its SHA-256 is not that of its contents')
  *lead, m, n = stack.shape
  k = min(m, n)
  expected = {'u': (*lead, m, k), 's': (*lead, k), 'vt': (*lead, k, n)}
  if any(arrays[name].shape != shape for name, shape in expected.items()):
    raise ValueError('it holds other shapes')
  return svd.SVD(**{name: jnp.asarray(x) for name, x in arrays.items()})


def _size(factors: svd.SVD) -> int:
  return sum(x.nbytes for x in factors)
