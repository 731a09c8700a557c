"""Corrections of a nearly right decomposition, by matrix products alone.

Each step squares the error, as long as no two singular values are so close that
their directions cannot be told apart: such pairs are only kept orthogonal.

Source: Ogita and Aishima 2020, J. Comput. Appl. Math. 369, 112512 (singular
values), after 2018, Japan J. Indust. Appl. Math. 35, 1007 (eigenvalues).
"""
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlft.spectral import products

NOISE = 5e-8  # of the largest value, times sqrt(N): cross terms of rounding
LEAST = 1e-6  # the same of small matrices
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
    q: Float[Array, '*L M N'], gram: Callable, correct: Callable,
) -> Float[Array, '*L M N']:
  """One step of Newton and Schulz towards orthonormal rows.

  `gram` multiplies q and q': what the result's error can fall to. `correct`
  multiplies the correction and q: only its relative precision counts.
  """
  found = gram(q, q.mT)
  eye = jnp.broadcast_to(jnp.eye(q.shape[-2], dtype=q.dtype), found.shape)
  left = eye - found
  return q + correct(left / 2, q)


def orthonormal(q: Float[Array, 'N N']) -> Float[Array, 'N N']:
  """The nearest orthonormal matrix, of one that is within a tenth of it."""
  coarse = functools.partial(products.large, product=products.coarse)
  # Errors of .1 -> .01 -> 1e-4 -> float32's: squares, and bfloat16's noise.
  q = newton(q, coarse, coarse)
  return jax.lax.fori_loop(
      0, 2, lambda _, x: newton(x, products.large, coarse), q)


def polish(
    a: Float[Array, 'N N'], inverse: Float[Array, ''],
    u: Float[Array, 'N N'], v: Float[Array, 'N N'],
) -> Polished:
  """Singular triplets of a * inverse from nearly right directions u and v."""
  go = lambda state: jnp.logical_and(
      state[3] > 2 * ENOUGH, state[2] < STEPS)

  def step(state):
    u, v, count, _ = state
    du, dv, size = _corrections(products.large(a, v * inverse), u, v)
    u, v = products.large(u, du, onto=u), products.large(v, dv, onto=v)
    return u, v, count + 1, size

  u, v, trips, _ = jax.lax.while_loop(
      go, step, (u, v, jnp.int32(0), jnp.float32(1)))
  s = products.total(u * products.large(a, v * inverse))
  u = u * jnp.where(s < 0, -1, 1)[None, :]
  order = jnp.argsort(-jnp.abs(s))
  return Polished(u[:, order], jnp.abs(s)[order], v[:, order], trips)


def _corrections(
    av: Float[Array, 'N N'], u: Float[Array, 'N N'], v: Float[Array, 'N N'],
) -> tuple[Array, Array, Array]:
  """What to add to u and v, in their own bases, and the largest turn."""
  eye = jnp.eye(u.shape[0], dtype=u.dtype)
  inside = products.large(u.T, av)
  r, t = eye - products.large(u.T, u), eye - products.large(v.T, v)
  s = jnp.diagonal(inside) / (
      1 - (jnp.diagonal(r) + jnp.diagonal(t)) / 2)
  row, column = s[:, None], s[None, :]
  noise = max(NOISE * s.shape[0]**.5, LEAST) * jnp.max(jnp.abs(s))
  gap = (column - row) * (column + row)

  def solve(here, there, row, column):
    """Two turns times the gap, and whether they are out of reach."""
    alpha, beta = here + column * r, there + column * t
    left, right = alpha * column + beta * row, alpha * row + beta * column
    size = jnp.maximum(jnp.abs(left), jnp.abs(right))
    cross = jnp.maximum(jnp.abs(alpha), jnp.abs(beta))
    # What is noise already would come out as noise over the gap.
    out = jnp.logical_and(cross <= noise, size > ENOUGH * jnp.abs(gap))
    return left, right, out | (size > REACH * jnp.abs(gap))

  left, right, near = solve(inside, inside.T, row, column)
  # A rotation turns both or neither; r and t are symmetric.
  near = near | solve(inside.T, inside, column, row)[2]
  near = near | (gap == 0) | (eye > 0)
  gap = jnp.where(near, 1, gap)
  turn = jnp.maximum(jnp.abs(left), jnp.abs(right)) / jnp.abs(gap)
  du = jnp.where(near, r / 2, left / gap)
  dv = jnp.where(near, t / 2, right / gap)
  return du, dv, jnp.max(jnp.where(near, 0, turn))
