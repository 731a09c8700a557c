"""Principal weights, and how much of an update falls on them.

Principal weights are the largest entries of a matrix's best approximation of
low rank (arXiv 2506.00772). That training avoids them (arXiv 2511.08567) is
what an isotropic update of the same norm also shows once it is rounded to
bfloat16, where large weights hide a change: every number here needs its null.
"""
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, UInt32

from rlft.spectral import rotation, svd

_matmul = functools.partial(jnp.matmul, precision='highest')
SHARE = 0.3  # of the entries; arXiv 2511.08567 states none


@functools.partial(jax.jit, static_argnums=1)
def mask(
    factors: svd.SVD, k: int, share: float | Float[Array, ''] = SHARE,
) -> Bool[Array, '*L M N']:
  """The largest `share` of the entries of the best rank-k approximation."""
  return largest(svd.compose(svd.leading(factors, k)), share)


@jax.jit
def largest(
    x: Float[Array, '*L M N'], share: float | Float[Array, ''] = SHARE,
) -> Bool[Array, '*L M N']:
  """The `share` of each matrix's entries that is largest in size, zeros aside.

  Ties are all in.
  """
  size = jnp.abs(x.astype(jnp.float32))
  entries = size.shape[-2] * size.shape[-1]
  count = jnp.maximum(jnp.round(share * entries), 1)
  least = _order_statistic(size, count)
  return jnp.logical_and(
      size >= jnp.broadcast_to(least, size.shape), size > 0)


def _order_statistic(
    size: Float32[Array, '*L M N'], count: Float[Array, ''],
) -> Float32[Array, '*L 1 1']:
  """The count-th largest entry, exactly, by bisecting the bits of floats.

  Sizes sort as their bits do, and counting is cheaper than sorting.
  """
  bits = jax.lax.bitcast_convert_type(size, jnp.uint32)

  def halve(i: Array, least: UInt32[Array, '*L 1 1']) -> Array:
    trial = least | (jnp.uint32(1) << (jnp.uint32(30) - i.astype(jnp.uint32)))
    enough = jnp.sum(
        (bits >= jnp.broadcast_to(trial, bits.shape)).astype(jnp.int32),
        axis=(-2, -1), keepdims=True) >= count
    return jnp.where(enough, trial, least)

  least = jnp.zeros((*size.shape[:-2], 1, 1), jnp.uint32)
  least = jax.lax.fori_loop(0, 31, halve, least)
  return jax.lax.bitcast_convert_type(least, jnp.float32)


def overlap(
    weights: Bool[Array, '*L M N'], changed: Bool[Array, '*L M N'],
) -> Float[Array, '*L']:
  """Share of the changed entries that are among `weights`; NaN if none is.

  By chance the share of `weights` in the matrix.
  """
  count = lambda x: jnp.sum(x.astype(jnp.float32), axis=(-2, -1))
  return count(jnp.logical_and(weights, changed)) / count(changed)


def alignment(angles: Float[Array, '*L K']) -> Float[Array, '*L']:
  """Mean squared cosine of principal angles; K / N between random spans.

  Equal to the eigenspace alignment of arXiv 2506.00772 and to the subspace
  similarity |V'V'_after|_F^2 / K.
  """
  return jnp.mean(jnp.square(jnp.cos(angles)), axis=-1)


@functools.partial(jax.jit, static_argnums=2)
def energy(
    before: svd.SVD, update: Float[Array, '*L M N'], k: int,
) -> Float[Array, '*L']:
  """Share of |update|^2 between the leading k directions of either side.

  By chance k^2 / MN. 0 for a zero update.
  """
  found = rotation.energy(svd.leading(before, k), update)
  return found.diagonal + found.rotated
