"""Singular value decomposition of stacks of matrices, W = u diag(s) vt.

Kernels are M x N and act as x @ W: the columns of u are directions of the
input space, the rows of vt of the output space.
"""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


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
  u, s, vt = jnp.linalg.svd(w.astype(jnp.float32), full_matrices=False)
  return leading(SVD(u, s, vt), k)


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


def count(fraction: float, rank: int) -> int:
  """How many of `rank` directions a fraction (0 to 1) is, by rounding."""
  if not 0 <= fraction <= 1:
    raise ValueError(f'{fraction} is not a fraction of directions (0 to 1)')
  return round(fraction * rank)
