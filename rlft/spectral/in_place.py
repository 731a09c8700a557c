"""Decompositions that need little memory beside the matrix.

A matrix lies when it is not taller than wide: others are turned round, which
only exchanges the two sides of their factors. LAPACK, which wants columns,
finds in a lying matrix its transpose: a tall one, which is faster, and what
`svd.decompose` makes of it too, so that the factors are the same to the bit.
"""
import contextlib
import gc
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Shaped
from scipy.linalg import blas, lapack

from rlft.spectral import svd

Load = Callable[[], Shaped[Any, 'L M N']]  # a stack anew at every call
ALIGNED = 64  # bytes: JAX takes over such an array as it is
COLUMNS = 1024  # multiplied at a time, or more
LARGE = 2**27  # bytes of a stack whose factors are worth a file
LONG = 3  # lengths over widths from which LAPACK needs little beside a matrix
SCALED = 1e-11, 1e11  # LAPACK scales a matrix whose largest entry is not within


def empty(shape: tuple[int, ...]) -> Float32[np.ndarray, '...']:
  """An array that `on_device` need not copy."""
  gc.collect(0)  # when JAX lets go of such arrays that it had
  size = 4 * int(np.prod(shape))
  raw = np.empty(size + ALIGNED, np.uint8)
  start = -raw.ctypes.data % ALIGNED
  return raw[start:start + size].view(np.float32).reshape(shape)


def on_device(buffer: Float32[np.ndarray, '...']) -> Float[Array, '...']:
  """The same memory on CPUs: what is written into it later would be seen."""
  return jax.device_put(buffer)


def turned(shape: tuple[int, ...]) -> bool:
  """Whether a matrix of this shape has to be turned round to lie."""
  return shape[-2] >= shape[-1]


def view(w: Shaped[np.ndarray, 'L M N']) -> Shaped[np.ndarray, 'L R C']:
  """The stack lying, in the memory where it is."""
  return w.mT if turned(w.shape) else w


def lying(load: Load) -> Float32[np.ndarray, 'L R C']:
  """What is loaded, in new memory, that `decompose` may take."""
  found = view(np.asarray(load()))
  copy = empty(found.shape)
  np.copyto(copy, found)
  return copy


def difference(after: Load, before: Load) -> Float32[np.ndarray, 'L R C']:
  """after - before, lying, in new memory."""
  found = lying(after)
  found -= view(np.asarray(before()))
  return found


def decompose(
    w: Float32[np.ndarray, 'L R C'],
    again: Callable[[], Float32[np.ndarray, 'L R C']],
) -> svd.SVD:
  """The factors of a lying stack, in whose place the longer ones are put.

  On CPUs about six squares of the smaller side are needed beside it where the
  matrix is longer than 11/6 of that, and as much as it takes itself and four
  squares where it is not. `again` makes the stack again, for those that
  LAPACK's divide and conquer gives up on. NaN where a matrix is not finite, or
  QR iteration gives up too.
  """
  if jax.default_backend() != 'cpu':
    return svd.decompose(on_device(w))
  layers, rank, _ = w.shape
  left, s = empty((layers, rank, rank)), np.empty((layers, rank), np.float32)
  for layer, matrix in enumerate(w):
    places = matrix, left[layer], s[layer]
    done = np.isfinite(matrix.max() - matrix.min())
    if done and not _divide(*places):
      matrix[...] = again()[layer]
      done = _take(*places, lapack.sgesvd(
          matrix.T, full_matrices=0, overwrite_a=1))
    if not done:
      for place in places:
        place[...] = np.nan
  return svd.SVD(on_device(left), on_device(s), on_device(w))


class Aside:
  """Factors in a file: either side is loaded when it is asked for."""

  def __init__(self, factors: svd.SVD, file: IO[bytes]):
    self.s, self._file, self._shapes = factors.s, file, {}
    for name in ('u', 'vt'):
      array = np.asarray(getattr(factors, name))
      self._shapes[name] = array.shape, file.tell()
      array.tofile(file)

  @property
  def u(self) -> Float[Array, 'L _ _']:
    return self._load('u')

  @property
  def vt(self) -> Float[Array, 'L _ _']:
    return self._load('vt')

  def _load(self, name: str) -> Float[Array, 'L _ _']:
    shape, start = self._shapes[name]
    found = empty(shape)
    self._file.seek(start)
    if self._file.readinto(
        found.reshape(-1).view(np.uint8)) != found.nbytes:
      raise RuntimeError('factors that were set aside cannot be read')
    return on_device(found)


@contextlib.contextmanager
def set_aside(
    factors: svd.SVD, folder: pathlib.Path | None = None,
) -> Iterator[svd.SVD | Aside]:
  """Inside, the factors of a lying stack; large ones lie in a file meanwhile.

  It has no name, is in `folder`, and is not made for matrices that are long:
  those need little beside them anyway. ValueError where it cannot be written.
  """
  rank, long = factors.vt.shape[-2:]
  if (jax.default_backend() != 'cpu' or factors.vt.nbytes < LARGE
      or long >= LONG * rank):
    yield factors
    return
  with contextlib.ExitStack() as stack:
    try:
      file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
      aside = Aside(factors, file)
    except OSError as error:
      raise ValueError(
          f'cannot set factors aside in {folder or tempfile.gettempdir()} '
          f'({error.strerror}): make room, or choose another place') from error
    del factors
    yield aside


def _divide(
    w: Float32[np.ndarray, 'R C'], left: Float32[np.ndarray, 'R R'],
    s: Float32[np.ndarray, 'R'],
) -> bool:
  """By divide and conquer; False, with w destroyed, where that gives up."""
  rank, long = w.shape
  largest = max(w.max(), -w.min())
  low, high = SCALED
  if long < int(rank * 11 / 6) or 0 < largest < low or largest > high:
    return _take(w, left, s, _gesdd(w.T))
  # What LAPACK itself does with a long matrix, but for the copies: the factors
  # of the triangle, and their product with q in the place of q.
  tall = w.T
  size, _ = lapack.sgeqrf_lwork(*tall.shape)
  tall, tau, _, info = lapack.sgeqrf(tall, lwork=int(size), overwrite_a=1)
  _check('sgeqrf', info)
  triangle = np.triu(tall[:rank]).T.copy().T
  tall, _, info = lapack.sorgqr(tall, tau, lwork=int(size), overwrite_a=1)
  _check('sorgqr', info)
  u, values, vt, info = _gesdd(triangle)
  if info > 0:
    return False
  _check('sgesdd', info)
  if not np.may_share_memory(tall, w):  # the wrapper copies what begins oddly
    w[...] = tall.T
  # What is left over is with the last: a small block is rounded another way.
  edges = range(COLUMNS, long - COLUMNS + 1, COLUMNS)
  for block in np.split(w, edges, axis=1):
    block[...] = blas.sgemm(1., block.T, u).T
  left[...], s[...] = vt.T, values
  return True


def _gesdd(a: Float32[np.ndarray, 'C R']) -> tuple:
  size, _ = lapack.sgesdd_lwork(*a.shape, full_matrices=0)
  return lapack.sgesdd(a, full_matrices=0, lwork=int(size), overwrite_a=1)


def _take(
    w: Float32[np.ndarray, 'R C'], left: Float32[np.ndarray, 'R R'],
    s: Float32[np.ndarray, 'R'], found: tuple,
) -> bool:
  """Puts what LAPACK found of the transpose in its places, if it did."""
  u, values, vt, info = found
  if info > 0:
    return False
  _check('svd', info)
  w[...], s[...], left[...] = u.T, values, vt.T
  return True


def _check(name: str, info: int) -> None:
  if info:
    raise RuntimeError(f'LAPACK refuses argument {-info} of {name}')
