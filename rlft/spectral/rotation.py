"""How far singular subspaces turned, and where the energy of an update went.

Angles are in radians. Individual directions inside a nearly degenerate cluster
of singular values are not identifiable, and their signs never are: compare
subspaces, or |cosine|.
"""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlft.spectral import svd

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


@jax.jit
def principal_angles(
    a: Float[Array, '*L M K'], b: Float[Array, '*L M K'],
) -> Float[Array, '*L K']:
  """Angles between the spans of two bases, radians, ascending.

  Correct to 3e-7 from 0 to pi/2: small angles come from the residual
  b - a(a'b), as arccos of a cosine near one loses all below 3e-4 (Knyazev and
  Argentati 2002, SIAM J. Sci. Comput. 23). On TPUs, whose SVD has no float64,
  the error is a few float32 roundings more.
  """
  return svd.each(functools.partial(_angles, wide=True), a, b,
                  tpu=functools.partial(_angles, wide=False))


def _angles(
    a: Float[Array, '*L M K'], b: Float[Array, '*L M K'], *, wide: bool,
) -> Float[Array, '*L K']:
  with jax.enable_x64(wide):
    a, b = (
        # Again orthonormal: single precision is so only to about 1e-6.
        jnp.linalg.qr(x.astype(jnp.float64 if wide else jnp.float32))[0]
        for x in (a, b))
    inside = _matmul(a.mT, b)
    # Or JAX sets M x M aside for the directions that it is not asked for.
    values = functools.partial(
        jnp.linalg.svd, full_matrices=False, compute_uv=False)
    cosine, sine = values(inside), values(b - _matmul(a, inside))
    angles = jnp.arctan2(sine[..., ::-1], cosine)
    return jnp.sort(angles, axis=-1).astype(jnp.float32)


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


def cosine(before: svd.SVD, after: svd.SVD) -> Sides:
  """|u_i . u'_i| and |v_i . v'_i| per direction, free of signs."""
  return Sides(
      _overlap(before.u, after.u), _overlap(before.vt.mT, after.vt.mT))


def _overlap(
    a: Float[Array, '*L M K'], b: Float[Array, '*L M K'],
) -> Float[Array, '*L K']:
  return jnp.minimum(jnp.abs(jnp.sum(a * b, axis=-2)), 1)


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


def stable_rank(s: Float[Array, '*L K']) -> Float[Array, '*L']:
  """|W|_F^2 / |W|_2^2 from singular values; 0 for a zero matrix."""
  top = s[..., :1]
  return jnp.sum(jnp.square(s / jnp.where(top > 0, top, 1)), axis=-1)
