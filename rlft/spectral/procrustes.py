"""The angles by which the Procrustes rotation turns one basis to another.

Other than principal angles, which compare spans, this follows each direction:
it also sees directions trade places within a span that stays where it is.
"""
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlft.spectral import clusters, svd
from rlft.spectral.rotation import Sides

_matmul = functools.partial(jnp.matmul, precision='highest')


@jax.jit
def angles(
    a: Float[Array, '*L M K'], b: Float[Array, '*L M K'],
) -> Float[Array, '*L K']:
  """How far the Procrustes rotation from a to b turns, radians, ascending.

  The absolute phases of its eigenvalues, in pairs, 0 to pi; a single pi is a
  reflection. From 2 sin and 2 cos of half of them, the singular values of
  R - 1 and R + 1, so that no end of the range is blind.
  """
  return svd.each(functools.partial(_angles, wide=True), a, b,
                  tpu=functools.partial(_angles, wide=False))


def _angles(
    a: Float[Array, '*L M K'], b: Float[Array, '*L M K'], *, wide: bool,
) -> Float[Array, '*L K']:
  with jax.enable_x64(wide):
    if wide:
      a, b = a.astype(jnp.float64), b.astype(jnp.float64)
      factor = functools.partial(jnp.linalg.svd, full_matrices=False)
    else:
      factor = svd.decompose
    u, _, vt = factor(_matmul(a.mT, b))
    turn = _matmul(u, vt)
    eye = jnp.broadcast_to(jnp.eye(turn.shape[-1]), turn.shape)
    sine, cosine = (factor(x)[1] for x in (turn - eye, turn + eye))
    return jnp.sort(2 * jnp.arctan2(
        sine[..., ::-1], cosine), axis=-1).astype(jnp.float32)


@jax.jit
def aligned(
    before: svd.SVD, after: svd.SVD, groups: Int[Array, '*L K'],
) -> svd.SVD:
  """`after` with what its factors leave open chosen as in `before`.

  Signs, and the basis within each cluster of `groups`, by the Procrustes
  rotation of both sides at once. With clusters of more than one the factors
  of `after` no longer compose to its matrix: its values are not all equal.
  """
  overlap = _matmul(before.u.mT, after.u) + _matmul(before.vt, after.vt.mT)
  block = jnp.where(clusters.together(groups), overlap, 0)
  turn = svd.polar_factor(block).mT
  return svd.SVD(
      _matmul(after.u, turn), after.s, _matmul(turn.mT, after.vt))


def of_directions(
    before: svd.SVD, after: svd.SVD, groups: Int[Array, '*L K'],
) -> Sides:
  """Angle spectra of the rotation of the directions on either side."""
  after = aligned(before, after, groups)
  return Sides(
      angles(before.u, after.u), angles(before.vt.mT, after.vt.mT))
