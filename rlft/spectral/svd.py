"""Singular value decomposition of stacks of matrices, W = u diag(s) vt.

Kernels are M x N and act as x @ W: the columns of u are directions of the
input space, the rows of vt of the output space.
"""
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlft.ops import sharding
from rlft.spectral import jacobi

Fraction = float | int  # of the directions, or of the depth: 0 to 1


class SVD(NamedTuple):
  """Singular triplets, descending; each u_i, vt_i is defined up to one sign."""
  u: Float[Array, '*L M K']
  s: Float[Array, '*L K']
  vt: Float[Array, '*L K N']


def decompose(
    w: Float[Array, '*L M N'], k: int | None = None,
    method: str | None = None,
) -> SVD:
  """All min(M, N) singular triplets, or the leading k, in float32.

  `method` is one of METHODS: 'tpu' is `jacobi.svd`, which needs nothing but
  matrix products; 'library' what the platform brings (LAPACK on CPUs,
  cuSOLVER on GPUs); the others are cuSOLVER's algorithms by name. By default
  'tpu' on TPUs, 'library' elsewhere. A matrix that is not finite has NaN
  factors (`bases.bases` names it instead).
  """
  rank = min(w.shape[-2:])
  if k is not None and not 1 <= k <= rank:
    raise ValueError(f'k={k} directions of a matrix with {rank}')
  if method not in (None, *METHODS):
    raise ValueError(f'no method {method!r}; known: {", ".join(METHODS)}')
  return _decompose(w, k or rank, method or default_method())


def default_method() -> str:
  """What is fastest on the devices at hand."""
  # Not chosen while lowering: the kernel would be traced for every platform.
  return 'tpu' if sharding.platform() == 'tpu' else 'library'


@functools.partial(jax.jit, static_argnums=(1, 2))
def _decompose(w: Float[Array, '*L M N'], k: int, method: str) -> SVD:
  kernel = functools.partial(_finite, METHODS[method])
  w = w.astype(jnp.float32)
  if method == 'tpu':  # one matrix at a time fills any chip
    flat = jax.lax.map(kernel, w.reshape(-1, *w.shape[-2:]))
    found = jax.tree.map(
        lambda x: x.reshape(*w.shape[:-2], *x.shape[1:]), flat)
  else:
    found = each(kernel, w)
  return leading(SVD(*found), k)


def _finite(kernel: Callable, w: Float[Array, 'M N']) -> SVD:
  """The triplets; NaN throughout if any entry is not finite."""
  good = jnp.all(jnp.isfinite(w))
  wide = w.shape[0] < w.shape[1]  # the transpose is a third faster
  found = kernel(jnp.where(good, w.T if wide else w, 0))
  u, s, vt = (jnp.where(good, x, jnp.nan) for x in found)
  return SVD(vt.T, s, u.T) if wide else SVD(u, s, vt)


def _library(
    w: Float[Array, 'M N'], algorithm: str = 'DEFAULT') -> SVD:
  names = jax.lax.linalg.SvdAlgorithm
  factor = lambda x, name: SVD(*jax.lax.linalg.svd(
      x, full_matrices=False, algorithm=getattr(names, name)))
  found = factor(w, algorithm)
  if algorithm != 'DEFAULT':
    return found
  # LAPACK's divide and conquer gives up on some matrices in single precision
  # (bases mixed of two checkpoints are such); its QR iteration does not.
  return jax.lax.cond(
      jnp.isnan(found.s[0]), lambda: factor(w, 'QR'), lambda: found)


def _products(w: Float[Array, 'M N']) -> SVD:
  found = jacobi.svd(w)
  return SVD(found.u, found.s, found.v.T)


METHODS = {
    'tpu': _products,
    'library': _library,
    'gesvd': functools.partial(_library, algorithm='QR'),
    'gesvdj': functools.partial(_library, algorithm='JACOBI'),
    'gesvdp': functools.partial(_library, algorithm='POLAR')}


def each(
    kernel: Callable[..., Any], *stacks: Float[Array, '*L _ _'],
    tpu: Callable[..., Any] | None = None,
) -> Any:
  """A kernel of matrices on stacks '*L M N': one at a time, but not on GPUs.

  On CPUs a batched LAPACK call waits for the thread pool that it occupies, so
  two at a time can wait for each other for ever (jaxlib 0.10); one matrix at
  a time runs in place, at the same speed. On TPUs one fills the chip. `tpu`
  replaces the kernel there.
  """
  flat = [x.reshape(-1, *x.shape[-2:]) for x in stacks]
  singly = lambda one: lambda *x: jax.lax.map(lambda row: one(*row), x)
  found = jax.lax.platform_dependent(
      *flat, cpu=singly(kernel), tpu=singly(tpu or kernel),
      default=jax.vmap(kernel))
  lead = stacks[0].shape[:-2]
  return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), found)


def leading(svd: SVD, k: int) -> SVD:
  """The leading k triplets."""
  return SVD(svd.u[..., :k], svd.s[..., :k], svd.vt[..., :k, :])


def trailing(svd: SVD, k: int) -> SVD:
  """The trailing k triplets, descending."""
  at = svd.s.shape[-1] - k
  return SVD(svd.u[..., at:], svd.s[..., at:], svd.vt[..., at:, :])


def compose(svd: SVD) -> Float[Array, '*L M N']:
  """u diag(s) vt."""
  return _compose(*svd)


@jax.jit
def _compose(
    u: Float[Array, '*L M K'], s: Float[Array, '*L K'],
    vt: Float[Array, '*L K N']) -> Float[Array, '*L M N']:
  return jnp.matmul(u * s[..., None, :], vt, precision='highest')


@jax.jit
def polar_factor(x: Float[Array, '*L M K']) -> Float[Array, '*L M K']:
  """The nearest matrix with orthonormal columns (M >= K)."""
  u, _, vt = decompose(x)
  return jnp.matmul(u, vt, precision='highest')


def count(fraction: Fraction, rank: int) -> int:
  """How many of `rank` directions a fraction (0 to 1) is, by rounding."""
  if not 0 <= fraction <= 1:
    raise ValueError(f'{fraction} is not a fraction of directions (0 to 1)')
  return round(fraction * rank)
