"""How far singular subspaces turned, and where the energy of an update went.

Angles are in radians. Individual directions inside a nearly degenerate cluster
of singular values are not identifiable, and their signs never are: compare
subspaces, or |cosine| by `clusters`.
"""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlft.spectral import clusters, svd

ROWS = 256  # of float64 at a time
_matmul = functools.partial(jnp.matmul, precision='highest')


class Sides(NamedTuple):
  """One number per direction for either side of x @ W."""
  input: Float[Array, '*L K']
  output: Float[Array, '*L K']


class Energy(NamedTuple):
  """Shares of an update's squared norm in the old singular basis."""
  diagonal: Float[Array, '*L']  # rescales old directions
  rotated: Float[Array, '*L']  # turns the directions of the basis
  outside: Float[Array, '*L']  # leaves the span of the basis


def principal_angles(
    a: Float[Array, '*L M K'], b: Float[Array, '*L M K'],
) -> Float[Array, '*L K']:
  """Angles between the spans of two bases, radians, ascending.

  Correct to 1e-7 from 0 to pi/2 (3e-6 on TPUs, which have no float64), where
  arccos of float32 cosines loses all below 4e-4. NaN for a basis whose columns
  are dependent.
  """
  k = a.shape[-1]
  return nested_angles(a, b, (k,))[k]


@functools.partial(jax.jit, static_argnums=2)
def nested_angles(
    a: Float[Array, '*L M K'], b: Float[Array, '*L M K'],
    counts: tuple[int, ...],
) -> dict[int, Float[Array, '*L _']]:
  """Principal angles of the spans of the leading k columns, for each k.

  Three products of the largest k serve all: with a'a = RR' and b'b = TT'
  (Cholesky), leading blocks of inv(R) a'b inv(T') belong to leading columns.
  """
  counts = tuple(sorted(set(counts)))
  top = counts[-1]
  found = svd.each(
      functools.partial(_gram_angles, counts=counts),
      a[..., :top], b[..., :top],
      tpu=functools.partial(_residual_angles, counts=counts))
  return dict(zip(counts, found, strict=True))


def _gram_angles(
    a: Float[Array, '*L M K'], b: Float[Array, '*L M K'], *,
    counts: tuple[int, ...],
) -> tuple[Float[Array, '*L _'], ...]:
  """atan2(sqrt(1 - c2), sqrt(c2)) of the squared cosines c2, in float64.

  A rounding of c2 is 1e-16, so one of the angle at most its root.
  """
  with jax.enable_x64(True):
    left, right = (jnp.linalg.cholesky(_inner(x, x)) for x in (a, b))
    solve = functools.partial(jax.lax.linalg.triangular_solve, lower=True)
    inside = solve(left, _inner(a, b), left_side=True)
    inside = solve(right, inside, left_side=False, transpose_a=True)
    found = []
    for k in counts:
      block = inside[..., :k, :k]
      squared = jnp.linalg.eigvalsh(_matmul(block.mT, block))[..., ::-1]
      squared = jnp.clip(squared, 0, 1)
      found.append(jnp.arctan2(
          jnp.sqrt(1 - squared), jnp.sqrt(squared)).astype(jnp.float32))
  return tuple(found)


def _inner(
    a: Float[Array, 'M K'], b: Float[Array, 'M K'],
) -> Float[Array, 'K K']:
  """a'b in float64, some rows at a time: two copies would be the most that a
  comparison holds."""
  def product(start, rows):
    x, y = (jax.lax.dynamic_slice_in_dim(x, start, rows).astype(jnp.float64)
            for x in (a, b))
    return _matmul(x.T, y)

  step = min(ROWS, a.shape[0])
  blocks, rest = divmod(a.shape[0], step)
  return jax.lax.fori_loop(
      0, blocks, lambda i, total: total + product(i * step, step),
      product(blocks * step, rest))


def _residual_angles(
    a: Float[Array, '*L M K'], b: Float[Array, '*L M K'], *,
    counts: tuple[int, ...],
) -> tuple[Float[Array, '*L _'], ...]:
  """The same in float32, of nearly orthonormal bases.

  Small angles come from the residual b - a(a'b) (Knyazev and Argentati 2002,
  SIAM J. Sci. Comput. 23).
  """
  # Single precision bases are orthonormal only to 1e-6: one Newton step.
  a, b = (1.5 * x - .5 * _matmul(x, _matmul(x.mT, x)) for x in (a, b))
  found = []
  for k in counts:
    first, second = a[..., :k], b[..., :k]
    inside = _matmul(first.mT, second)
    cosine = svd.decompose(inside).s
    sine = svd.decompose(second - _matmul(first, inside)).s
    angles = jnp.arctan2(sine[..., ::-1], cosine)
    found.append(jnp.sort(angles, axis=-1))
  return tuple(found)


@jax.jit
def procrustes(
    a: Float[Array, '*L M K'], b: Float[Array, '*L M K'],
) -> Float[Array, '*L K K']:
  """The orthogonal R that minimises |a R - b|."""
  return svd.polar_factor(_matmul(a.mT, b))


def projector_distance(
    a: Float[Array, '*L M K'], b: Float[Array, '*L M K'],
) -> Float[Array, '*L']:
  """|aa' - bb'| (Frobenius) = sqrt(2) |sines of the principal angles|."""
  # By the residual: the difference of two M x M projectors would cancel.
  residual = b - _matmul(a, _matmul(a.mT, b))
  return jnp.sqrt(2 * jnp.sum(jnp.square(residual), axis=(-2, -1)))


def subspace_angles(before: svd.SVD, after: svd.SVD) -> Sides:
  """Principal angles of the spans on either side, radians, ascending."""
  return Sides(
      principal_angles(before.u, after.u),
      principal_angles(before.vt.mT, after.vt.mT))


def cosine(
    before: svd.SVD, after: svd.SVD, groups: Int[Array, '*L K'] | None = None,
) -> Sides:
  """|u_i . u'_i| and |v_i . v'_i| per direction, free of signs.

  Directions of one group (see `clusters`) are no more than a basis of their
  span: each gets the span's cosine, the root mean square of those of its
  principal angles.
  """
  if groups is None:
    return Sides(
        _overlap(before.u, after.u), _overlap(before.vt.mT, after.vt.mT))
  return Sides(span_cosine(before.u, after.u, groups),
               span_cosine(before.vt, after.vt, groups, rows=True))


def _overlap(
    a: Float[Array, '*L M K'], b: Float[Array, '*L M K'],
) -> Float[Array, '*L K']:
  return jnp.minimum(jnp.abs(jnp.sum(a * b, axis=-2)), 1)


@functools.partial(jax.jit, static_argnames='rows')
def span_cosine(
    a: Float[Array, '*L _ _'], b: Float[Array, '*L _ _'],
    groups: Int[Array, '*L K'], *, rows: bool = False,
) -> Float[Array, '*L K']:
  """`cosine` of one side, by groups; directions are columns, or `rows`."""
  # Not turned round for it: copies of both would be the most that is held.
  product = lambda x, y: _matmul(x, y.mT) if rows else _matmul(x.mT, y)
  squares = jnp.square(svd.each(product, a, b))
  same = clusters.together(groups).astype(a.dtype)
  own = jnp.sum(squares * same, axis=-1, keepdims=True)
  sizes = jnp.sum(same, axis=-1)
  mean = _matmul(same, own)[..., 0] / sizes
  return jnp.minimum(jnp.sqrt(mean), 1)


def energy(before: svd.SVD, update: Float[Array, '*L M N']) -> Energy:
  """How an update splits in the old singular basis; the shares sum to 1.

  With C = u' update v: diagonal sum C_ii^2, rotated the rest of |C|^2, outside
  what the basis does not span, each over |update|^2. A random update has a
  diagonal share of about 1 / min(M, N). All shares of a zero update are zero.
  """
  return Energy(*_energy(before.u, before.vt, update.astype(jnp.float32)))


def _energy(
    u: Float[Array, '*L M K'], vt: Float[Array, '*L K N'],
    update: Float[Array, '*L M N'],
) -> tuple[Float[Array, '*L'], Float[Array, '*L'], Float[Array, '*L']]:
  # Scaled first, so that the squares of a tiny update do not underflow.
  size = jnp.max(jnp.abs(update), axis=(-2, -1), keepdims=True)
  update = update / jnp.where(size > 0, size, 1)
  inside = _matmul(_matmul(u.mT, update), vt.mT)
  total = jnp.sum(jnp.square(update), axis=(-2, -1))
  squares = jnp.square(inside)
  diagonal = jnp.trace(squares, axis1=-2, axis2=-1)
  # Summed off the diagonal, not subtracted, so that it is never negative.
  rest = jnp.sum(jnp.where(_eye(squares), 0, squares), axis=(-2, -1))
  outside = jnp.maximum(total - diagonal - rest, 0)
  if u.shape[-2] == u.shape[-1] == vt.shape[-1]:  # what there is is rounding
    outside = jnp.zeros_like(outside)
  total = diagonal + rest + outside
  total = jnp.where(total > 0, total, 1)
  return diagonal / total, rest / total, outside / total


def _eye(x: Float[Array, '*L K K']) -> Array:
  return jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=bool), x.shape)


def value_shift(
    before: Float[Array, '*L K'], after: Float[Array, '*L K'],
) -> Float[Array, '*L K']:
  """|s' - s| / s per singular value.

  Values below float32's resolution of the largest are noise: they are measured
  against that resolution.
  """
  floor = jnp.finfo(jnp.float32).eps * before[..., :1]
  floor = jnp.maximum(floor, jnp.finfo(jnp.float32).tiny)
  return jnp.abs(after - before) / jnp.maximum(before, floor)


def normalised_shift(
    before: Float[Array, '*L K'], after: Float[Array, '*L K'],
) -> Float[Array, '*L']:
  """|s' - s| / |s| over the spectrum (NSS, arXiv 2511.08567); 0 if s is."""
  change, size = (jnp.linalg.norm(x, axis=-1) for x in (after - before, before))
  return change / jnp.where(size > 0, size, 1)


def stable_rank(s: Float[Array, '*L K']) -> Float[Array, '*L']:
  """|W|_F^2 / |W|_2^2 from singular values; 0 for a zero matrix."""
  top = s[..., :1]
  return jnp.sum(jnp.square(s / jnp.where(top > 0, top, 1)), axis=-1)
