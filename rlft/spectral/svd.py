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

Fraction = float | int  # of the directions, or of the depth: 0 to 1


class SVD(NamedTuple):
  """Singular triplets, descending; each u_i, vt_i is defined up to one sign."""
  u: Float[Array, '*L M K']
  s: Float[Array, '*L K']
  vt: Float[Array, '*L K N']


def decompose(w: Float[Array, '*L M N'], k: int | None = None) -> SVD:
  """All min(M, N) singular triplets, or the leading k, in float32."""
  rank = min(w.shape[-2:])
  if k is not None and not 1 <= k <= rank:
    raise ValueError(f'k={k} directions of a matrix with {rank}')
  return _decompose(w, k or rank)


@functools.partial(jax.jit, static_argnums=1)
def _decompose(w: Float[Array, '*L M N'], k: int) -> SVD:
  return leading(SVD(*each(_factor, w.astype(jnp.float32))), k)


def _factor(w: Float[Array, '*L M N']) -> tuple[Array, Array, Array]:
  if w.shape[-2] < w.shape[-1]:  # LAPACK is 30 % faster on the transpose
    u, s, vt = jnp.linalg.svd(w.mT, full_matrices=False)
    return vt.mT, s, u.mT
  return jnp.linalg.svd(w, full_matrices=False)


def each(
    kernel: Callable[..., Any], *stacks: Float[Array, '*L _ _'],
    tpu: Callable[..., Any] | None = None,
) -> Any:
  """A kernel of matrices on stacks '*L M N': batched, but singly on CPUs.

  There a batched LAPACK call waits for the thread pool that it occupies, so
  two at a time can wait for each other for ever (jaxlib 0.10); one matrix at
  a time runs in place, at the same speed. `tpu` replaces the kernel on TPUs.
  """
  flat = [x.reshape(-1, *x.shape[-2:]) for x in stacks]
  found = jax.lax.platform_dependent(
      *flat, cpu=lambda *x: jax.lax.map(lambda one: kernel(*one), x),
      tpu=tpu or kernel, default=kernel)
  lead = stacks[0].shape[:-2]
  return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), found)


def leading(svd: SVD, k: int) -> SVD:
  """The leading k triplets."""
  return SVD(svd.u[..., :k], svd.s[..., :k], svd.vt[..., :k, :])


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
