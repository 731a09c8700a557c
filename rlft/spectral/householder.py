"""QR by blocked Householder reflections, in loops whose bodies compile once.

XLA unrolls its own QR for TPUs with the size of the matrix: at 4096 it compiles
for minutes. Here every panel is the same masked program, so compile time does
not grow; the price is three times the operations of a shrinking panel.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlft.spectral import products


class _Panel(NamedTuple):
  """Reflections I - v t v' of one panel, and the panel that they made."""
  v: Float[Array, 'M B']
  t: Float[Array, 'B B']
  r: Float[Array, 'M B']


def qr(
    a: Float[Array, 'M N'], *, block: int,
) -> tuple[Float[Array, 'M N'], Float[Array, 'N N']]:
  """(q, r) of a matrix with M >= N, N a multiple of `block`.

  q has orthonormal columns whatever `a` is: where a column depends on those
  before it (or is zero) the column of q completes the basis. r is upper
  triangular, its diagonal of any sign (Golub and Van Loan, 5.2.3).
  """
  m, n = a.shape
  panels = n // block
  empty = jnp.zeros((panels, m, block), a.dtype), jnp.zeros(
      (panels, block, block), a.dtype)

  def reflect(k, state):
    a, vs, ts = state
    a, found = _reflect(a, k, block)
    return a, vs.at[k].set(found.v), ts.at[k].set(found.t)

  r, vs, ts = jax.lax.fori_loop(0, panels, reflect, (a, *empty))

  def collect(i, q):
    k = panels - 1 - i
    return _apply(vs[k], ts[k], q)

  q = jax.lax.fori_loop(0, panels, collect, jnp.eye(m, n, dtype=a.dtype))
  return q, jnp.triu(r[:n])


def triangle(a: Float[Array, 'M N'], *, block: int) -> Float[Array, 'N N']:
  """The r of `qr` alone, for half the operations."""
  n = a.shape[1]
  r = jax.lax.fori_loop(
      0, n // block, lambda k, a: _reflect(a, k, block)[0], a)
  return jnp.triu(r[:n])


def _reflect(
    a: Float[Array, 'M N'], k: int | Int[Array, ''], block: int,
) -> tuple[Float[Array, 'M N'], _Panel]:
  """`a` with its panel k reduced, and the reflections that did it."""
  part = jax.lax.dynamic_slice(a, (0, k * block), (a.shape[0], block))
  found = _panel(part, k * block)
  # Columns to the left hold zeros where v is not zero: they do not change.
  a = _apply(found.v, found.t.mT, a)
  return jax.lax.dynamic_update_slice(a, found.r, (0, k * block)), found


def _apply(
    v: Float[Array, 'M B'], t: Float[Array, 'B B'], x: Float[Array, 'M N'],
) -> Float[Array, 'M N']:
  """(I - v t v') x."""
  inside = products.full(t, products.large(v.mT, x))
  return products.large(-v, inside, onto=x)


def _panel(a: Float[Array, 'M B'], first: int | Int[Array, '']) -> _Panel:
  """Reflections that make columns of `a` zero below row first + column."""
  m, block = a.shape
  rows = jnp.arange(m)

  def column(j, state):
    v, t, a = state
    pivot = first + j
    x = jnp.where(rows >= pivot, a[:, j], 0)
    scale = jnp.max(jnp.abs(x))  # squares of tiny numbers underflow
    x = x / jnp.where(scale > 0, scale, 1)
    head = x[pivot]
    length = jnp.sqrt(products.total((x * x)[:, None])[0])
    end = jnp.where(head >= 0, -length, length)
    u = jnp.where(rows == pivot, head - end, x)
    size = products.total((u * u)[:, None])[0]
    u = u / jnp.sqrt(jnp.where(size > 0, size, 1))
    tau = jnp.where(size > 0, 2., 0.)
    # Sums of products, not a dot of vectors: exact in float32 everywhere.
    inside = products.total(u[:, None] * a)
    a = a - tau * u[:, None] * inside[None, :]
    a = a.at[:, j].set(jnp.where(
        rows > pivot, 0, jnp.where(rows == pivot, end * scale, a[:, j])))
    overlap = products.total(v * u[:, None])
    new = -tau * jnp.sum(t * overlap[None, :], axis=1)
    t = t.at[:, j].set(new.at[j].set(tau))
    return v.at[:, j].set(u), t, a

  empty = jnp.zeros_like(a), jnp.zeros((block, block), a.dtype), a
  return _Panel(*jax.lax.fori_loop(0, block, column, empty))
