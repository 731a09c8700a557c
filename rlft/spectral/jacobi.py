"""The singular value decomposition for TPUs: block one-sided Jacobi.

Made of matrix products and elementwise work in loops whose bodies compile once,
because XLA unrolls its own decomposition with the size of the matrix. Four
stages, for a square w (a tall one is first reduced by QR):

  1. coarse sweeps in one bfloat16 pass turn w until its columns are nearly
     orthogonal: w v = columns of falling length, v made orthonormal again
  2. QR of w v. Its triangle r, transposed, is what one-sided Jacobi takes
     fewest sweeps for (Drmac and Veselic 2008, SIAM J. Matrix Anal. 29, 1322)
  3. float32 sweeps of r', until what is left is noise or within reach of step
     4. Only its left directions y are kept: the right ones of w are v y, the
     left ones come from the QR of w v y, so no rotation has to be summed up
  4. `polish.polish`: corrections by products alone

A sweep meets every pair of blocks once (a tournament); all pairs of a round
are turned at once, each by the rotations of one Jacobi sweep over the Gram
matrix of its columns. Directions without a singular value complete the bases.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from rlft.spectral import householder, polish, products

COARSE_SWEEPS, FULL_SWEEPS = 10, 20  # at most
COARSE_ENOUGH = .25  # of the largest value over sqrt(n): bfloat16's noise
NOISE = 4e-7  # of the largest value: float32's, with sums of thousands


class Trips(NamedTuple):
  """How often each loop ran: what the number of operations depends on."""
  coarse: Int[Array, '']
  full: Int[Array, '']
  polish: Int[Array, '']


class Found(NamedTuple):
  """Singular triplets, descending, and the trips that it took."""
  u: Float32[Array, 'M N']
  s: Float32[Array, ' N']
  v: Float32[Array, 'N N']
  trips: Trips


def svd(w: Float32[Array, 'M N'], *, block: int | None = None) -> Found:
  """All singular triplets of a finite matrix with M >= N.

  `block` columns are turned against `block` others; 64 fills a TPU's matrix
  unit. Errors are a few float32 roundings of the largest value.
  """
  m, n = w.shape
  block = block or max(4, min(64, -(-n // 4)))
  size = n + -n % (2 * block)
  largest = jnp.max(jnp.abs(w))
  scale = jnp.where(largest > 0, largest, 1)
  height = max(size, m + -m % (2 * block))
  # Scaled where it is used: a scaled copy would be one more matrix.
  a = jnp.pad(w, ((0, height - m), (0, size - n)))
  tall = height > size
  if tall:
    outer, a = householder.qr(a, block=block)
  u, s, v, trips = _square(a, 1 / scale, block)
  u = products.large(outer, u) if tall else u
  return Found(u[:m, :n], s[:n] * scale, v[:n, :n], trips)


def _square(
    a: Float[Array, 'N N'], inverse: Float[Array, ''], block: int,
) -> Found:
  """The triplets of a * inverse."""
  v, coarse = _coarse(a.T * inverse, block)
  turned = products.large(a, v * inverse)
  # Padding is zero columns; it stays last because the sort is stable.
  order = jnp.argsort(-jnp.sum(turned * turned, axis=0))
  v = v[:, order]
  r = householder.triangle(turned[:, order], block=block)
  columns, full = _converge(r, block)
  length = jnp.sqrt(products.total(columns * columns))
  order = jnp.argsort(-length)
  columns, length = columns[:, order], length[order]
  empty = length <= jnp.finfo(jnp.float32).tiny
  y, _ = householder.qr(
      columns / jnp.where(empty, 1, length)[None, :], block=block)
  # r' = y diag(length) j' for a rotation j, so a (v y) has orthogonal columns.
  v = products.large(v, y)
  u, _ = householder.qr(products.large(a, v * inverse), block=block)
  found = polish.polish(a, inverse, u, v)
  return Found(found.u, found.s, found.v, Trips(coarse, full, found.trips))


def _coarse(
    at: Float[Array, 'N N'], block: int,
) -> tuple[Float[Array, 'N N'], Int[Array, '']]:
  """Orthonormal v with nearly orthogonal a v, and the sweeps it took."""
  n = at.shape[0]
  both = jnp.concatenate([at, jnp.eye(n, dtype=at.dtype)], axis=1)
  go = lambda state: jnp.logical_and(
      state[2] > COARSE_ENOUGH / n**.5, state[1] < COARSE_SWEEPS)

  def sweep(state):
    z, count, _ = state
    z, worst = _sweep(z, products.coarse)
    return z, count + 1, worst

  z, count, _ = jax.lax.while_loop(
      go, sweep, (both.reshape(-1, 2 * block, 2 * n), jnp.int32(0),
                  jnp.float32(1)))
  vt = z.reshape(n, 2 * n)[:, n:]
  return polish.orthonormal(vt).T, count


def _converge(
    wt: Float[Array, 'N N'], block: int,
) -> tuple[Float[Array, 'N N'], Int[Array, '']]:
  """w j with orthogonal columns for a rotation j, and the sweeps it took."""
  n = wt.shape[0]
  go = lambda state: jnp.logical_and(
      state[2] > NOISE, state[1] < FULL_SWEEPS)

  def sweep(state):
    z, count, _ = state
    z, _ = _sweep(z, products.full)
    return z, count + 1, _left(z.reshape(n, n))

  z, count, _ = jax.lax.while_loop(go, sweep, (
      wt.reshape(-1, 2 * block, n), jnp.int32(0), jnp.float32(1)))
  return z.reshape(n, n).T, count


def _left(xt: Float[Array, 'N N']) -> Float[Array, '']:
  """The largest cross term that `polish` cannot remove, over the largest value.

  |x_i . x_j| / max(|x_i|, |x_j|), of rows x, is what stands off the diagonal of
  u' w v.
  """
  n = xt.shape[0]
  panel = products.panel(n)
  # Each pair once: the tiles on and above the diagonal.
  rows, columns = (
      jnp.asarray(x * panel) for x in np.triu_indices(n // panel))
  length = jnp.sqrt(jnp.sum(jnp.square(xt), axis=1))
  index = jnp.arange(panel)

  def tile(i, worst):
    row, column = rows[i], columns[i]
    add = lambda k, gram: gram + products.full(
        jax.lax.dynamic_slice(xt, (row, k * panel), (panel, panel)),
        jax.lax.dynamic_slice(xt, (column, k * panel), (panel, panel)).T)
    gram = jax.lax.fori_loop(
        0, n // panel, add, jnp.zeros((panel, panel), xt.dtype))
    first, second = (
        jax.lax.dynamic_slice_in_dim(length, at, panel)
        for at in (row, column))
    first, second = first[:, None], second[None, :]
    longer = jnp.maximum(first, second)
    cross = jnp.abs(gram) / jnp.where(longer > 0, longer, 1)
    here = jnp.logical_and(
        cross > polish.REACH * jnp.abs(first - second),
        row + index[:, None] != column + index[None, :])
    return jnp.maximum(worst, jnp.max(jnp.where(here, cross, 0)))

  worst = jax.lax.fori_loop(
      0, len(rows), tile, jnp.zeros((), xt.dtype))
  largest = jnp.max(length)
  return worst / jnp.where(largest > 0, largest, 1)


def _sweep(
    z: Float[Array, 'P S Z'], product,
) -> tuple[Float[Array, 'P S Z'], Float[Array, '']]:
  """Every pair of rows once; the largest cross term met, relative.

  A row is a column of the matrix and whatever is to be turned with it.
  """
  pairs, side, _ = z.shape
  lengths = jnp.sum(jnp.square(z[..., :pairs * side]), axis=-1)
  largest = jnp.sqrt(jnp.max(lengths))
  off = ~jnp.eye(side, dtype=bool)

  def play(_, state):
    z, worst = state
    gram = _grams(z, product)
    length = jnp.sqrt(jnp.maximum(
        jnp.diagonal(gram, axis1=1, axis2=2), jnp.finfo(jnp.float32).tiny))
    cross = jnp.abs(gram) / jnp.maximum(
        length[:, :, None], length[:, None, :])
    worst = jnp.maximum(worst, jnp.max(jnp.where(off, cross, 0)))
    turns = _rotations(gram, NOISE / 16 * largest)
    return _turned(turns, z, product), worst

  z, worst = jax.lax.fori_loop(
      0, max(2 * pairs - 1, 1), play, (z, jnp.zeros((), z.dtype)))
  return z, worst / jnp.where(largest > 0, largest, 1)


def _grams(z: Float[Array, 'P S Z'], product) -> Float[Array, 'P S S']:
  """Inner products of the columns of each pair (not of what follows them)."""
  pairs, side, _ = z.shape
  n = pairs * side
  panel = products.panel(n)

  def add(i, gram):
    x = jax.lax.dynamic_slice_in_dim(z, i * panel, panel, 2)
    return gram + product(x, x.mT)

  return jax.lax.fori_loop(
      0, n // panel, add, jnp.zeros((pairs, side, side), z.dtype))


def _turned(
    q: Float[Array, 'P S S'], z: Float[Array, 'P S Z'], product,
) -> Float[Array, 'P S Z']:
  """q z with its blocks moved on to the next round, a panel at a time."""
  panel = products.panel(z.shape[-1])
  half = z.shape[1] // 2

  def turn(i, z):
    part = product(q, jax.lax.dynamic_slice_in_dim(z, i * panel, panel, 2))
    part = jnp.concatenate(_move(part[:, :half], part[:, half:], 0), axis=1)
    return jax.lax.dynamic_update_slice_in_dim(z, part, i * panel, 2)

  return jax.lax.fori_loop(0, z.shape[-1] // panel, turn, z)


def _move(top: Array, bottom: Array, axis: int) -> tuple[Array, Array]:
  """The next round of a tournament: all but the first of `top` move on."""
  if top.shape[axis] == 1:
    return top, bottom
  take = lambda x, a, b: jax.lax.slice_in_dim(x, a, b, axis=axis)
  n = top.shape[axis]
  return (
      jnp.concatenate(
          [take(top, 0, 1), take(bottom, 0, 1), take(top, 1, n - 1)], axis),
      jnp.concatenate([take(bottom, 1, n), take(top, n - 1, n)], axis))


def _rotations(
    gram: Float[Array, 'P S S'], floor: Float[Array, ''],
) -> Float[Array, 'P S S']:
  """Orthonormal q after one Jacobi sweep: q gram q' is more diagonal.

  `floor` is the cross term below which two columns count as orthogonal. The
  matrix is kept as quadrants, so that the pairs of a step are the diagonals
  of its blocks and a step is elementwise work (Brent and Luk 1985).
  """
  side = gram.shape[-1]
  half = side // 2
  eye = jnp.broadcast_to(jnp.eye(side, dtype=gram.dtype), gram.shape)
  diagonal = lambda x: jnp.diagonal(x, axis1=1, axis2=2)

  def step(_, state):
    tl, tr, bl, br, qt, qb = state
    cos, sin = _angles(diagonal(tl), diagonal(br), diagonal(tr), floor)
    turn = lambda c, s, a, b: (c * a - s * b, s * a + c * b)
    rows = cos[:, :, None], sin[:, :, None]
    columns = cos[:, None, :], sin[:, None, :]
    tl, bl = _move(*turn(*rows, tl, bl), 1)
    tr, br = _move(*turn(*rows, tr, br), 1)
    tl, tr = _move(*turn(*columns, tl, tr), 2)
    bl, br = _move(*turn(*columns, bl, br), 2)
    return tl, tr, bl, br, *_move(*turn(*rows, qt, qb), 1)

  state = (gram[:, :half, :half], gram[:, :half, half:],
           gram[:, half:, :half], gram[:, half:, half:],
           eye[:, :half], eye[:, half:])
  state = jax.lax.fori_loop(0, side - 1, step, state)
  # A step of Newton and Schulz, so that rounding does not add up over sweeps.
  q = jnp.concatenate(state[4:], axis=1)
  return polish.newton(q, products.full, products.full)


def _angles(
    first: Float[Array, 'P H'], second: Float[Array, 'P H'],
    cross: Float[Array, 'P H'], floor: Float[Array, ''],
) -> tuple[Float[Array, 'P H'], Float[Array, 'P H']]:
  """Cosine and sine of the rotations, at most 45 degrees."""
  tiny = jnp.finfo(jnp.float32).tiny
  long = jnp.sqrt(jnp.maximum(jnp.maximum(first, second), tiny))
  short = jnp.sqrt(jnp.maximum(jnp.minimum(first, second), 0))
  turn = jnp.logical_and(
      jnp.abs(cross) > 5e-8 * long * short, jnp.abs(cross) > floor * long)
  ratio = (second - first) / (2 * jnp.where(turn, cross, 1))
  # No sign function: at equal lengths the angle is 45 degrees, not 0.
  tangent = jnp.where(ratio < 0, -1, 1) / (
      jnp.abs(ratio) + jnp.sqrt(1 + ratio * ratio))
  tangent = jnp.where(turn, tangent, 0)
  cosine = 1 / jnp.sqrt(1 + tangent * tangent)
  return cosine, tangent * cosine
