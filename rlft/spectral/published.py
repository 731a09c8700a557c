"""Restoration and angles by the formulas of the published code, to compare.

Source: the code of arXiv 2508.16546, for reproducing its numbers and nothing
else. What is different from `restore` and `rotation`:
- When the restored directions are all there are, W_before comes back, values
  included: what is called a restoration of directions is a reversion then.
- The mixed basis is left as it is, and not orthonormal.
- A number of directions beyond the rank means all.
- Angles are arccos of float32 cosines, so blind below about 4e-4 rad.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlft.spectral import pairs, restore, svd
from rlft.spectral.pairs import Factors, Pair


def vectors(
    after: Factors | Pair, before: Factors | None = None, *,
    top: svd.Fraction | None = None, tail: svd.Fraction | None = None,
    top_count: int | None = None, tail_count: int | None = None,
) -> Float[Array, '*L M N']:
  """Directions of `before` around the values of `after`, or W_before."""
  pair = pairs.pair(after, before)
  top, tail = _counts(pair.rank, top, tail, top_count, tail_count)
  if top + tail == pair.rank:
    return pair.before
  return pairs.composed(pair.mixed('redirected', top, tail))


def triplets(
    after: Factors | Pair, before: Factors | None = None, *,
    top: svd.Fraction | None = None, tail: svd.Fraction | None = None,
    top_count: int | None = None, tail_count: int | None = None,
) -> Float[Array, '*L M N']:
  """Leading and trailing triplets of `before`, the others of `after`."""
  pair = pairs.pair(after, before)
  top, tail = _counts(pair.rank, top, tail, top_count, tail_count)
  if top + tail == pair.rank:
    return pair.before
  return pairs.composed(pair.mixed('before', top, tail))


@jax.jit
def principal_angles(
    a: Float[Array, '*L M K'], b: Float[Array, '*L M K'],
) -> Float[Array, '*L K']:
  """arccos of the clamped singular values of a'b, radians, ascending."""
  inside = jnp.matmul(a.mT, b, precision='highest')
  return jnp.arccos(jnp.clip(svd.decompose(inside).s, -1, 1))


def _counts(
    rank: int, top: svd.Fraction | None, tail: svd.Fraction | None,
    top_count: int | None, tail_count: int | None,
) -> tuple[int, int]:
  if max(top_count or 0, tail_count or 0) >= rank:
    return rank, 0
  return restore.counts(rank, top, tail, top_count, tail_count)
