"""Weight edits that take a later checkpoint back towards an earlier one.

Every edit maps stacks to a stack. `after` is what is edited, `before` where it
goes back to. *Restore* means directions or values of a matrix, *revert* the
weights themselves. Spectral edits take factors, or weights to be factored;
`top` and `tail` are fractions of the min(M, N) directions, by rounding, and
are traced as numbers, so a sweep over them compiles once per shape.

Source: arXiv 2508.16546, the restoration of singular directions, with two
differences: the mixed basis is made orthonormal again unless told not to, and
top + tail = 1 restores all directions, not the weights.
"""
import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from rlft.spectral import nulls, svd

Factors = svd.SVD | Float[Array, '*L M N']
Range = tuple[svd.Fraction, svd.Fraction]  # of the depth: low, high


def values(
    after: Factors, before: Factors, *, top: svd.Fraction = 1.0,
    tail: svd.Fraction = 0.0,
) -> Float[Array, '*L M N']:
  """u_after diag(s_before) vt_after, at the leading and trailing values."""
  after, before = _factors(after), _factors(before)
  chosen = _chosen(after.s, *_counts(after, top, tail))
  return svd.compose(after._replace(s=jnp.where(chosen, before.s, after.s)))


def vectors(
    after: Factors, before: Factors, *, top: svd.Fraction = 0.2,
    tail: svd.Fraction = 0.0,
    polar: bool = True,
) -> Float[Array, '*L M N']:
  """[u_before top, u_after, u_before tail] diag(s_after) [vt likewise].

  The mixed basis is projected to the nearest orthonormal one; `polar=False`
  keeps it as it is, as the paper does, and loses or doubles the energy where
  the two spans overlap.
  """
  after, before = _factors(after), _factors(before)
  return _mixed(after, before._replace(s=after.s),
                *_counts(after, top, tail), polar=polar)


def triplets(
    after: Factors, before: Factors, *, top: svd.Fraction = 0.2,
    tail: svd.Fraction = 0.0,
    polar: bool = True,
) -> Float[Array, '*L M N']:
  """Directions and their values; all of them (top=1) is `before` itself."""
  after, before = _factors(after), _factors(before)
  return _mixed(after, before, *_counts(after, top, tail), polar=polar)


def low_rank(
    after: Float[Array, '*L M N'], update: Factors, *,
    top: svd.Fraction = 0.2,
) -> Float[Array, '*L M N']:
  """Removes the leading directions of the update after - before."""
  update = _factors(update)
  chosen = _chosen(update.s, *_counts(update, top, 0.0))
  return after - svd.compose(
      update._replace(s=jnp.where(chosen, update.s, 0)))


@jax.jit
def interpolate(
    after: Float[Array, '*L M N'], before: Float[Array, '*L M N'], *,
    amount: svd.Fraction | Float[Array, ''],
) -> Float[Array, '*L M N']:
  """(1 - amount) after + amount before."""
  return after + amount * (before - after)


@jax.jit
def noise(
    key: Key[Array, ''], after: Float[Array, '*L M N'],
    before: Float[Array, '*L M N'], *, amount: svd.Fraction | Float[Array, ''],
) -> Float[Array, '*L M N']:
  """A random step, matrix by matrix as long as interpolation's is."""
  return after + amount * nulls.norm_matched(key, before - after)


def revert(
    after: Float[Array, 'L M N'], before: Float[Array, 'L M N'], *,
    layers: Range = (0.0, 1.0),
) -> Float[Array, 'L M N']:
  """The weights of `before` in a range of layers (fractions of the depth)."""
  return within(after, before, layers=layers)


def within(
    after: Float[Array, 'L M N'], edited: Float[Array, 'L M N'], *,
    layers: Range,
) -> Float[Array, 'L M N']:
  """`edited` in a range of layers, `after` elsewhere."""
  start, stop = layer_range(layers, after.shape[0])
  return _within(after, edited, start, stop)


@jax.jit
def _within(
    after: Float[Array, 'L M N'], edited: Float[Array, 'L M N'],
    start: int | Int[Array, ''], stop: int | Int[Array, ''],
) -> Float[Array, 'L M N']:
  index = jnp.arange(after.shape[0])[:, None, None]
  inside = jnp.logical_and(index >= start, index < stop)
  return jnp.where(jnp.broadcast_to(inside, after.shape), edited, after)


def layer_range(layers: Range, depth: int) -> tuple[int, int]:
  """Layers l with low <= l / depth < high, so that ranges never overlap."""
  low, high = layers
  if not 0 <= low < high <= 1:
    raise ValueError(
        f'layers={low:g}:{high:g} is no range of fractions of the depth; '
        'write low and high with 0 <= low < high <= 1')
  # The slack keeps 0.07 * 100 = 7.000000000000001 at layer 7.
  start, stop = (math.ceil(x * depth - 1e-6) for x in (low, high))
  if start == stop:
    raise ValueError(
        f'layers={low:g}:{high:g} holds none of {depth} layers; widen it')
  return start, stop


def _factors(x: Factors) -> svd.SVD:
  return x if isinstance(x, svd.SVD) else svd.decompose(x)


def _counts(
    factors: svd.SVD, top: svd.Fraction, tail: svd.Fraction,
) -> tuple[int, int]:
  rank = factors.s.shape[-1]
  if top + tail > 1 + 1e-6:
    raise ValueError(
        f'top={top} and tail={tail} overlap; their sum is at most 1')
  return svd.count(top, rank), svd.count(tail, rank)


def _chosen(
    s: Float[Array, '*L K'], top: int | Int[Array, ''],
    tail: int | Int[Array, ''],
) -> Bool[Array, '*L K']:
  index = jnp.broadcast_to(jnp.arange(s.shape[-1]), s.shape)
  return jnp.logical_or(index < top, index >= s.shape[-1] - tail)


@functools.partial(jax.jit, static_argnames='polar')
def _mixed(
    after: svd.SVD, before: svd.SVD, top: int | Int[Array, ''],
    tail: int | Int[Array, ''], *, polar: bool,
) -> Float[Array, '*L M N']:
  chosen = _chosen(after.s, top, tail)
  mix = lambda new, old: jnp.where(
      jnp.broadcast_to(chosen[..., None, :], old.shape), new, old)
  u, v = mix(before.u, after.u), mix(before.vt.mT, after.vt.mT)
  if polar:
    u, v = svd.polar_factor(u), svd.polar_factor(v)
  return svd.compose(
      svd.SVD(u, jnp.where(chosen, before.s, after.s), v.mT))
