"""Corrections of a nearly right decomposition, by matrix products alone.

Each step squares the error, as long as no two singular values are so close that
their directions cannot be told apart: such pairs are only kept orthogonal.

Source: Ogita and Aishima 2020, J. Comput. Appl. Math. 369, 112512 (singular
values), after 2018, Japan J. Indust. Appl. Math. 35, 1007 (eigenvalues).
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlft.spectral import products

NOISE = 1e-6  # of the largest value: cross terms that rounding explains
REACH = 5e-3  # radians: larger rotations are not small corrections
ENOUGH = 5e-4  # radians: the square is about float32's resolution
STEPS = 4  # at most


class Polished(NamedTuple):
  """u diag(s) v', descending."""
  u: Float[Array, 'N N']
  s: Float[Array, ' N']
  v: Float[Array, 'N N']
  trips: Int[Array, '']


def newton(
    q: Float[Array, '*L M N'], product=products.full,
) -> Float[Array, '*L M N']:
  """One step of Newton and Schulz towards orthonormal rows."""
  return 1.5 * q - 0.5 * product(product(q, q.mT), q)


def orthonormal(q: Float[Array, 'N N']) -> Float[Array, 'N N']:
  """The nearest orthonormal matrix, of one that is within a tenth of it."""
  # Cubic errors .1 -> .01 -> 1e-6 -> float32's.
  return jax.lax.fori_loop(0, 4, lambda _, x: newton(x, products.large), q)


def polish(
    a: Float[Array, 'N N'], u: Float[Array, 'N N'], v: Float[Array, 'N N'],
) -> Polished:
  """Singular triplets of `a` from nearly right directions u and v."""
  go = lambda state: jnp.logical_and(state[3] > ENOUGH, state[2] < STEPS)

  def step(state):
    u, v, count, _ = state
    s, du, dv, size = _corrections(a, u, v)
    u = u + products.large(u, du)
    v = v + products.large(v, dv)
    return u, v, count + 1, size

  u, v, trips, _ = jax.lax.while_loop(
      go, step, (u, v, jnp.int32(0), jnp.float32(1)))
  s = jnp.sum(u * products.large(a, v), axis=0)
  u = u * jnp.where(s < 0, -1, 1)
  order = jnp.argsort(-jnp.abs(s))
  return Polished(u[:, order], jnp.abs(s)[order], v[:, order], trips)


def _corrections(
    a: Float[Array, 'N N'], u: Float[Array, 'N N'], v: Float[Array, 'N N'],
) -> tuple[Array, Array, Array, Array]:
  """Values, what to add to u and v (in their own bases), the largest turn."""
  eye = jnp.eye(a.shape[0], dtype=a.dtype)
  inside = products.large(u.T, products.large(a, v))
  r, t = eye - products.large(u.T, u), eye - products.large(v.T, v)
  s = jnp.diagonal(inside) / (
      1 - (jnp.diagonal(r) + jnp.diagonal(t)) / 2)
  row, column = s[:, None], s[None, :]
  alpha = inside + column * r
  beta = inside.T + column * t
  gap = (column - row) * (column + row)
  left = alpha * column + beta * row
  right = alpha * row + beta * column
  size = jnp.maximum(jnp.abs(left), jnp.abs(right))
  cross = jnp.maximum(jnp.abs(alpha), jnp.abs(beta))
  # What is noise already would come out as noise over the gap.
  noise = jnp.logical_and(
      cross <= NOISE * jnp.max(jnp.abs(s)), size > ENOUGH * jnp.abs(gap))
  near = noise | (size > REACH * jnp.abs(gap)) | (eye > 0) | (gap == 0)
  near = near | near.T  # a rotation turns both or neither
  gap = jnp.where(near, 1, gap)
  turn = jnp.where(near, 0, size / jnp.abs(gap))
  du = jnp.where(near, r / 2, left / gap)
  dv = jnp.where(near, t / 2, right / gap)
  return s, du, dv, jnp.max(turn)
