"""Matrices that take some of their singular triplets from another checkpoint.

Leading and trailing directions are one run of rows on a circle. An edit works
on that run, or on what it leaves over when that is shorter, so that its cost
goes with the shorter of the two. The number of rows is traced and masked; the
static width above it takes at most eight values, so that a sweep compiles at
most eight programs per shape. Directions are rows here (of u.mT and vt), as
runs of rows are cheap to read.
"""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlft.spectral import svd

_matmul = functools.partial(jnp.matmul, precision='highest')
WIDTH = 64  # the least difference between two widths
DOUBTFUL = 16  # directions that are projected once more, see `_beyond`
AMBIGUOUS = 1e-7  # certainty below which the nearest basis is rounding


class Rows(NamedTuple):
  """Factors with all directions as rows."""
  u: Float[Array, '*L R M']
  s: Float[Array, '*L R']
  v: Float[Array, '*L R N']


class Group(NamedTuple):
  """A run of directions: `count` from `start` on, cyclic."""
  start: int | Int[Array, '']
  count: int | Int[Array, '']
  width: int  # static, at least count


def rows(factors: svd.SVD) -> Rows:
  """The factors, transposed for this module."""
  return Rows(factors.u.mT, factors.s, factors.vt)


def group(rank: int, top: int, tail: int) -> tuple[Group, bool]:
  """The `top` leading and `tail` trailing directions, and True; or the rest.

  The rest, and False, when it is fewer.
  """
  count, start, chosen = top + tail, -tail % rank, True
  if 2 * count > rank:
    count, start, chosen = rank - count, top % rank, False
  unit = max(WIDTH, -(-rank // 16))
  width = min(-(-max(count, 1) // unit) * unit, -(-rank // 2))
  return Group(start, count, width), chosen


def part(factors: Rows, at: Group) -> Rows:
  """The triplets of a group, and others up to its width."""
  return _part(factors, at.start, at.width)


@functools.partial(jax.jit, static_argnums=2)
def _part(factors, start, width):
  index = (start + jnp.arange(width)) % factors.s.shape[-1]
  return Rows(*(x[..., index, :] for x in _columns(factors)))._replace(
      s=factors.s[..., index])


def exchange(
    whole: Float[Array, '*L M N'], out: Rows, into: Rows, at: Group,
) -> Float[Array, '*L M N']:
  """`whole` with a group of triplets, `part` of `out`, replaced by `into`'s."""
  return _exchange(whole, out, into, at.count)


@jax.jit
def _exchange(whole, out, into, count):
  inside = (jnp.arange(out.s.shape[-1]) < count)[:, None]
  u, s, v = _columns(out)
  p, t, q = _columns(into)
  left = [jnp.where(_like(inside, x), y * x, 0) for x, y in ((p, t), (u, -s))]
  left = jnp.concatenate(left, axis=-2)
  right = jnp.concatenate([q, v], axis=-2)
  return svd.each(
      lambda w, x, y: w + _matmul(x.mT, y), whole, left, right)


def rescale(
    whole: Float[Array, '*L M N'], change: Rows, at: Group,
) -> Float[Array, '*L M N']:
  """`whole` with a group of triplets, a `part`, added to it."""
  return _rescale(whole, change, at.count)


@jax.jit
def _rescale(whole, factors, count):
  inside = (jnp.arange(factors.s.shape[-1]) < count)[:, None]
  u, change, v = _columns(factors)
  u = jnp.where(_like(inside, u), u * change, 0)
  return svd.each(lambda w, x, y: w + _matmul(x.mT, y), whole, u, v)


def overlaps(a: Rows, b: Rows) -> tuple[Array, Array]:
  """a.u b.u' and a.v b.v', each *L R R: what a sweep shares."""
  return _overlaps(a, b)


@jax.jit
def _overlaps(a: Rows, b: Rows) -> tuple[Array, Array]:
  product = lambda x, y: _matmul(x, y.mT)
  return svd.each(product, a.u, b.u), svd.each(product, a.v, b.v)


def orthonormal(
    many: Rows, few: Rows, overlap: tuple[Array, Array],
    s: Float[Array, '*L R'], at: Group,
) -> tuple[Float[Array, '*L M N'], Float[Array, '*L']]:
  """Composes s with a group of directions of `few` and the rest of `many`.

  Either mixed basis is replaced by the nearest orthonormal one. `overlap` is
  that of few and many. Also returns the smaller certainty of the two bases,
  see `nearest_basis`.
  """
  return _orthonormal(many, few, overlap, s, at.start, at.count, at.width)


@functools.partial(jax.jit, static_argnums=6)
def _orthonormal(many, few, overlap, s, start, count, width):
  at = Group(start, count, width)
  index, _ = _index(s.shape[-1], *at)

  def one(u, s, v, p, q, overlap_u, overlap_v):
    left, sure = nearest_basis(u, p, overlap_u, at)
    right, sure_too = nearest_basis(v, q, overlap_v, at)
    if left.shape[-1] < right.shape[-1]:  # the cheaper to scale
      left = left * s
    else:
      right = right * s
    return _matmul(left.mT, right), jnp.minimum(sure, sure_too)

  part = (x[..., index, :] for x in (few.u, few.v, *overlap))
  return svd.each(one, *_columns(many._replace(s=s)), *part)


@functools.partial(jax.jit, static_argnums=4)
def side(
    many: Float[Array, '*L R M'], few: Float[Array, '*L K M'],
    start: int | Int[Array, ''], count: int | Int[Array, ''], width: int,
) -> tuple[Float[Array, '*L R M'], Float[Array, '*L']]:
  """One of the two bases of `orthonormal` and its certainty, from a part."""
  at = Group(start, count, width)
  return svd.each(
      lambda a, b: nearest_basis(a, b, _matmul(b, a.mT), at), many, few)


@jax.jit
def replaced(many: Rows, few: Rows, start, count) -> Rows:
  """`many` with a group of triplets, a part, in the place of its own."""
  index, inside = _index(many.s.shape[-1], start, count, few.s.shape[-1])
  put = lambda x, y: x.at[..., index, :].set(
      jnp.where(_like(inside, y), y, x[..., index, :]))
  u, s, v = map(put, _columns(many), _columns(few))
  return Rows(u, s[..., 0], v)


def nearest_basis(
    many: Float[Array, '*L R M'], few: Float[Array, '*L K M'],
    overlap: Float[Array, '*L K R'], at: Group,
) -> tuple[Float[Array, '*L R M'], Float[Array, '*L']]:
  """`many` with a group of its rows replaced, made orthonormal; and certainty.

  `few` are the K = at.width rows that replace them (those beyond at.count are
  left out), `overlap` is few many'. The nearest orthonormal rows are the polar
  factor. The certainty is the sine of the smallest angle between the group a
  and the rest b: at zero a direction of a lies in the span of b, and the
  nearest basis is not unique.

  Let t_i be the principal vectors of b's complement (in the span of both) and
  a_i those of a, at angles theta_i. The nearest basis takes a_i to the bisector
  (a_i + t_i) / |a_i + t_i| and turns b by the same half angle: with
  h = cos(theta / 2), E = b a' and x = 1 / (4 h^2 (1 + h)),
    a -> (a + t) / 2h,  b -> b - E [a x + t (1 / 2h - x cos theta)].
  Unlike those of (X'X)^(-1/2) no coefficient grows with theta, and all that is
  decomposed has the group's width.
  """
  rank = many.shape[-2]
  index, inside = _index(rank, *at)
  a = jnp.where(_like(inside, few), few, 0)
  outer = (jnp.arange(rank) - at.start) % rank >= at.count
  inner = jnp.where(
      jnp.broadcast_to(jnp.logical_and(inside, outer[None]), overlap.shape),
      overlap, 0)
  if rank == many.shape[-1]:
    turn, cosine, t, sure = _within(
        overlap[..., index], many[..., index, :], inside)
  else:
    turn, cosine, t, sure = _beyond(a, many, inner, outer, inside, at.count)
  cosine = jnp.minimum(cosine, 1)[..., None]
  half = jnp.sqrt((1 + cosine) / 2)
  x = 1 / (4 * half**2 * (1 + half))
  a = _matmul(turn.mT, a)
  back = _matmul(turn, (a + t) / (2 * half))
  push = a * x + t * (1 / (2 * half) - x * cosine)
  found = many - _matmul(_matmul(turn.mT, inner).mT, push)
  back = jnp.where(_like(inside, back), back, found[..., index, :])
  return found.at[..., index, :].set(back), sure


def _within(
    block: Float[Array, '*L K K'], own: Float[Array, '*L K M'],
    inside: Bool[Array, 'K 1'],
) -> tuple[Array, Array, Array, Array]:
  """The turn of a into a_i, cos theta, t and certainty, for square bases.

  The complement of b is spanned by the rows that make room for a, so that only
  their overlap with a is decomposed.
  """
  counted = jnp.logical_and(inside, inside.mT)
  eye = jnp.eye(block.shape[-1])
  block = jnp.where(jnp.broadcast_to(counted, block.shape), block,
                    jnp.broadcast_to(eye, block.shape))
  turn, cosine, p = _decompose(block)
  # Uncounted rows pair with themselves, at cosine one, and stay out of t.
  own = jnp.where(_like(inside, own), own, 0)
  return turn, cosine, _matmul(p, own), jnp.min(cosine, axis=-1)


def _beyond(
    a: Float[Array, '*L K M'], many: Float[Array, '*L R M'],
    inner: Float[Array, '*L K R'], outer: Bool[Array, 'R'],
    inside: Bool[Array, 'K 1'], count: int | Int[Array, ''],
) -> tuple[Array, Array, Array, Array]:
  """The same for longer directions, from what of a lies beyond b."""
  t, cosine, turn = _decompose((a - _matmul(inner, many)).mT)
  turn, t = turn.mT, t.mT
  # A t_i of small cosine is a difference of nearly equal vectors: without a
  # second projection it would keep of b rounding / cosine.
  size = min(DOUBTFUL, a.shape[-2])
  start = jnp.clip(count - size, 0, a.shape[-2] - size)
  last = jax.lax.dynamic_slice_in_dim(t, start, size, axis=-2)
  for _ in range(2):
    inner = _matmul(last, many.mT)
    inner = jnp.where(jnp.broadcast_to(outer, inner.shape), inner, 0)
    last = last - _matmul(inner, many)
    length = jnp.linalg.norm(last, axis=-1)
    last = last / jnp.where(length > 0, length, 1)[..., None]
  t = jax.lax.dynamic_update_slice_in_dim(t, last, start, axis=-2)
  # Uncounted rows are zero: their t come last, and are left out.
  t = jnp.where(_like(inside, t), t, 0)
  counted = jnp.broadcast_to(inside[..., 0], cosine.shape)
  sure = jnp.min(jnp.where(counted, cosine, 1), axis=-1)
  # The last projection changes little unless the vector was all rounding.
  counted = jnp.broadcast_to(start + jnp.arange(size) < count, length.shape)
  lost = jnp.any(jnp.logical_and(counted, length < .5), axis=-1)
  return turn, cosine, t, jnp.where(lost, 0, sure)


def _decompose(x: Float[Array, '*L M K']) -> svd.SVD:
  """Factors, also where LAPACK's divide and conquer fails to converge.

  It may in float32 on values that cluster at one, as overlaps have, and then
  gives NaN; on the same columns in reverse order it does not.
  """
  found = svd.decompose(x)

  def again() -> svd.SVD:
    u, s, vt = svd.decompose(x[..., ::-1])
    return svd.SVD(u, s, vt[..., ::-1])

  return jax.lax.cond(jnp.all(jnp.isfinite(found.s)), lambda: found, again)


def _index(rank: int, start, count, width: int) -> tuple[Array, Array]:
  """The rows of the group, and which of them count (a column)."""
  run = jnp.arange(width)
  return (start + run) % rank, (run < count)[:, None]


def _like(inside: Bool[Array, 'K 1'], x: Array) -> Array:
  return jnp.broadcast_to(inside, x.shape)


def _columns(factors: Rows) -> tuple[Array, Array, Array]:
  return factors.u, factors.s[..., None], factors.v
