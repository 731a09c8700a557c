"""An update by itself: how many entries it shows in, how many directions."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rlft.spectral import svd

_matmul = functools.partial(jnp.matmul, precision='highest')
UNCHANGED = 1e-3  # relative; less than the least step of bfloat16, 2^-8
BLOCK, STEPS = 8, 12  # of the Krylov space


@jax.jit
def unchanged(
    before: Float[Array, '*L M N'], after: Float[Array, '*L M N'],
) -> Bool[Array, '*L M N']:
  """Entries that bfloat16 storage shows as unchanged.

  |w' - w| <= 1e-3 max(|w|, |w'|) of the rounded values, which holds exactly
  where these are equal (arXiv 2511.08567); no absolute tolerance, which would
  count small weights as unchanged.
  """
  before, after = (
      jax.lax.reduce_precision(x.astype(jnp.float32), 8, 7)
      for x in (before, after))
  larger = jnp.maximum(jnp.abs(before), jnp.abs(after))
  return jnp.abs(after - before) <= UNCHANGED * larger


def sparsity(
    before: Float[Array, '*L M N'], after: Float[Array, '*L M N'],
) -> Float[Array, '*L']:
  """Share of the entries that bfloat16 storage shows as unchanged."""
  same = unchanged(before, after)
  return jnp.mean(same.astype(jnp.float32), axis=(-2, -1))


@jax.jit
def stable_rank(update: Float[Array, '*L M N']) -> Float[Array, '*L']:
  """|W|_F^2 / |W|_2^2 without a decomposition; 0 for a zero matrix."""
  # Scaled, so that squares of a tiny update do not underflow.
  size = jnp.max(jnp.abs(update), axis=(-2, -1), keepdims=True)
  update = update / jnp.where(size > 0, size, 1)
  total = jnp.sum(jnp.square(update), axis=(-2, -1))
  top = jnp.square(largest_value(update))
  return total / jnp.where(top > 0, top, 1)


@jax.jit
def largest_value(w: Float[Array, '*L M N']) -> Float[Array, '*L']:
  """The largest singular value, from a block Krylov space (within 1e-5).

  Twelve steps of eight random vectors, orthonormal at every step: for a flat
  spectrum as for a spike, at a small part of a decomposition's cost (Musco and
  Musco 2015, arXiv 1504.05477).
  """
  # Scaled, so that the squares of a tiny matrix do not underflow.
  size = jnp.max(jnp.abs(w), axis=(-2, -1), keepdims=True)
  w = w / jnp.where(size > 0, size, 1)
  tall = w if w.shape[-2] >= w.shape[-1] else w.mT
  n = tall.shape[-1]
  if n <= BLOCK * STEPS:
    return svd.decompose(tall).s[..., 0] * size[..., 0, 0]
  start = jnp.asarray(
      np.random.default_rng(0).normal(size=(n, BLOCK)), jnp.float32)
  found = svd.each(functools.partial(_krylov, start=start), tall)
  return (found * size)[..., 0, 0]


def _krylov(
    w: Float[Array, '*L M N'], *, start: Float[Array, 'N B'],
) -> Float[Array, '*L 1 1']:
  shape = (*w.shape[:-2], *start.shape)
  first = svd.decompose(jnp.broadcast_to(start, shape)).u
  # Columns that are not there yet are zero, and project nothing.
  basis = jnp.zeros((*shape[:-1], BLOCK * STEPS))
  basis = basis.at[..., :BLOCK].set(first)

  def extend(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
    basis, last = carry
    last = _matmul(w.mT, _matmul(w, last))
    for _ in range(2):  # again, as what is left may have been rounding
      last = last - _matmul(basis, _matmul(basis.mT, last))
      last, s, _ = svd.decompose(last)
    # Where the space is exhausted, directions of the basis came back.
    new = jnp.broadcast_to(s[..., None, :], last.shape) > .5
    last = jnp.where(new, last, 0)
    return jax.lax.dynamic_update_slice_in_dim(
        basis, last, i * BLOCK, axis=-1), last

  basis, _ = jax.lax.fori_loop(1, STEPS, extend, (basis, first))
  image = _matmul(w, basis)
  gram = _matmul(image.mT, image)
  return jnp.sqrt(svd.decompose(gram).s[..., :1, None])
