"""Weight edits that take a later checkpoint back towards an earlier one.

Every edit maps stacks to a stack. `after` is what is edited, `before` where it
goes back to. *Restore* means directions or values of a matrix, *revert* the
weights themselves. Spectral edits take weights, or their factors, or a
`pairs.Pair` of both, which a sweep makes once. Which directions: `top` and
`tail` are fractions of the min(M, N), by rounding; `top_count` and
`tail_count` are numbers of them. ValueError where both are given, where they
overlap, and where there are not so many.

Source: arXiv 2508.16546, the restoration of singular directions, with two
differences: the mixed basis is made orthonormal again unless told not to, and
top + tail = 1 restores all directions, not the weights. `published` has the
formulas as they were.
"""
import math
import warnings

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from rlft.spectral import mixing, nulls, pairs, svd
from rlft.spectral.pairs import Factors, Pair

Range = tuple[svd.Fraction, svd.Fraction]  # of the depth: low, high
Numbers = tuple[int, int]  # of layers: first, and one after the last


def values(
    after: Factors | Pair, before: Factors | None = None, *,
    top: svd.Fraction | None = None, tail: svd.Fraction | None = None,
    top_count: int | None = None, tail_count: int | None = None,
) -> Float[Array, '*L M N']:
  """u_after diag(s_before) vt_after, at the leading and trailing values.

  All values unless told otherwise.
  """
  pair = pairs.pair(after, before)
  top, tail = counts(pair.rank, top, tail, top_count, tail_count, default=1.0)
  return pair.rescaled(top, tail)


def vectors(
    after: Factors | Pair, before: Factors | None = None, *,
    top: svd.Fraction | None = None, tail: svd.Fraction | None = None,
    top_count: int | None = None, tail_count: int | None = None,
    polar: bool = True,
) -> Float[Array, '*L M N']:
  """[u_before top, u_after, u_before tail] diag(s_after) [vt likewise].

  The leading 20 % unless told otherwise. The mixed basis is projected to the
  nearest orthonormal one; `polar=False` keeps it as it is, as the paper does,
  and loses or doubles the energy where the two spans overlap.
  """
  pair = pairs.pair(after, before)
  top, tail = counts(pair.rank, top, tail, top_count, tail_count)
  if top + tail == pair.rank:
    return pair.redirected
  if polar and top + tail:
    return _orthonormal(pair, 'redirected', top, tail)
  return pair.exchanged('redirected', top, tail)


def triplets(
    after: Factors | Pair, before: Factors | None = None, *,
    top: svd.Fraction | None = None, tail: svd.Fraction | None = None,
    top_count: int | None = None, tail_count: int | None = None,
    polar: bool = True,
) -> Float[Array, '*L M N']:
  """Directions and their values; all of them (top=1) is `before` itself."""
  pair = pairs.pair(after, before)
  top, tail = counts(pair.rank, top, tail, top_count, tail_count)
  if polar and 0 < top + tail < pair.rank:
    return _orthonormal(pair, 'before', top, tail)
  return pair.exchanged('before', top, tail)


def low_rank(
    after: Float[Array, '*L M N'], update: Factors, *,
    top: svd.Fraction | None = None, top_count: int | None = None,
) -> Float[Array, '*L M N']:
  """Removes the leading directions of the update after - before."""
  factors = mixing.rows(pairs.factored(update))
  rank = factors.s.shape[-1]
  top, _ = counts(rank, top, None, top_count, None)
  at, chosen = mixing.group(rank, top, 0)
  part = mixing.part(factors, at)
  if chosen:
    return mixing.rescale(after, part._replace(s=-part.s), at)
  return mixing.rescale(after - pairs.composed(factors), part, at)


def counts(
    rank: int, top: svd.Fraction | None, tail: svd.Fraction | None,
    top_count: int | None, tail_count: int | None, *,
    default: svd.Fraction = 0.2,
) -> tuple[int, int]:
  """How many leading and trailing directions of `rank` are meant."""
  found = []
  for name, fraction, count, other in (
      ('top', top, top_count, default), ('tail', tail, tail_count, 0.0)):
    if fraction is not None and count is not None:
      raise ValueError(f'give either {name} (a fraction) or {name}_count')
    if count is None:
      count = svd.count(other if fraction is None else fraction, rank)
    elif isinstance(count, bool) or not 0 <= count <= rank:
      raise ValueError(
          f'{name}_count={count} of a matrix with {rank} directions; lower it, '
          f'choose modules, or write a fraction as {name}')
    found.append(count)
  fractions = (default if top is None else top) + (tail or 0.0)
  if top_count is None and tail_count is None and fractions > 1 + 1e-6:
    raise ValueError(
        f'top={top} and tail={tail} overlap; their sum is at most 1')
  if sum(found) > rank:
    # Two halves of an odd number, both rounded up, or counts that overlap.
    if sum(found) > rank + 1 or top_count is not None or tail_count is not None:
      raise ValueError(
          f'top and tail overlap: {found[0]} + {found[1]} of {rank} directions')
    found[1] -= 1
  return found[0], found[1]


def _orthonormal(
    pair: Pair, everything: str, top: int, tail: int,
) -> Float[Array, '*L M N']:
  """The mixed basis made orthonormal, around the values that belong there."""
  edited, sure = pair.orthonormal(everything, top, tail)
  if bool(jnp.all(sure >= mixing.AMBIGUOUS)):
    return edited
  warnings.warn(
      'a restored direction lies in the span of the kept ones: the nearest '
      'orthonormal basis is not unique, one of them is taken', stacklevel=3)
  del edited
  # By decomposing the mixed bases: sound where that is not.
  u, s, v = pair.mixed(everything, top, tail)
  return pairs.composed(mixing.Rows(
      svd.polar_factor(u.mT).mT, s, svd.polar_factor(v.mT).mT))


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
    layers: Range | None = None, layer_numbers: Numbers | None = None,
) -> Float[Array, 'L M N']:
  """The weights of `before` in a range of layers, or in all."""
  return within(after, before, layers=layers, layer_numbers=layer_numbers)


def within(
    after: Float[Array, 'L M N'], edited: Float[Array, 'L M N'], *,
    layers: Range | None = None, layer_numbers: Numbers | None = None,
) -> Float[Array, 'L M N']:
  """`edited` in a range of layers, `after` elsewhere.

  `layers` are fractions of the depth, `layer_numbers` the first layer and the
  one after the last.
  """
  start, stop = layer_range(
      layers, after.shape[0], layer_numbers=layer_numbers)
  return _within(after, edited, start, stop)


@jax.jit
def _within(
    after: Float[Array, 'L M N'], edited: Float[Array, 'L M N'],
    start: int | Int[Array, ''], stop: int | Int[Array, ''],
) -> Float[Array, 'L M N']:
  index = jnp.arange(after.shape[0])[:, None, None]
  inside = jnp.logical_and(index >= start, index < stop)
  return jnp.where(jnp.broadcast_to(inside, after.shape), edited, after)


def layer_range(
    layers: Range | None, depth: int, *, layer_numbers: Numbers | None = None,
) -> tuple[int, int]:
  """First layer and the one after the last.

  Of fractions those with low <= l / depth < high, so that ranges never
  overlap; all layers where nothing is given.
  """
  if layer_numbers is not None:
    if layers is not None:
      raise ValueError('give either layers (fractions) or layer_numbers')
    start, stop = layer_numbers
    if not 0 <= start < stop <= depth:
      raise ValueError(
          f'layer_numbers={start}:{stop} is no range of the layers 0 to '
          f'{depth}; write first and stop with 0 <= first < stop <= {depth}')
    return start, stop
  low, high = layers or (0.0, 1.0)
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
