"""All that is said about an update to a stack, for it and for its nulls alike.

One function makes the numbers of a real update, of a random one and of storage
noise, so that they can be held against each other.
"""
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlft.spectral import (
    in_place,
    principal,
    procrustes,
    rotation,
    svd,
    updates,
)


class Comparison(NamedTuple):
  """What one update did to a stack of matrices; k are its leading directions.

  Of two sides, input and output, the one that turned more.
  """
  angles: Float[Array, 'L K']  # principal angles, radians
  angle: Float[Array, 'L']  # their mean
  angle_by_top: Float[Array, 'L F']  # the mean at other numbers of directions
  procrustes_angles: Float[Array, 'L K']  # of the directions' rotation, radians
  procrustes: Float[Array, 'L']  # their mean
  projector_distance: Float[Array, 'L']
  cosine: Float[Array, 'L R']  # by direction, or by cluster of directions
  cosine_top: Float[Array, 'L']  # the mean of the leading k
  alignment: Float[Array, 'L']  # mean squared cosine of the angles
  values: Float[Array, 'L R']
  value_shift: Float[Array, 'L R']
  value_shift_top: Float[Array, 'L']  # the mean of the leading k
  nss: Float[Array, 'L']
  energy: rotation.Energy
  energy_principal: Float[Array, 'L']  # between the leading k of either side
  update_norm: Float[Array, 'L']
  stable_rank: Float[Array, 'L']  # of the update
  sparsity: Float[Array, 'L']  # entries unchanged in bfloat16
  on_principal: Float[Array, 'L']  # of the largest changes; NaN without one
  on_principal_bf16: Float[Array, 'L']  # of the visible changes; likewise


@functools.partial(jax.jit, static_argnames='counts')
def compare(
    old: svd.SVD, new: svd.SVD, weight: Float[Array, 'L M N'],
    update: Float[Array, 'L M N'], *, groups: Int[Array, 'L R'],
    heavy: Bool[Array, 'L M N'], counts: tuple[int, ...],
) -> Comparison:
  """The numbers of weight + update, whose factors are `new`.

  `groups` are the clusters of the old directions, `heavy` the principal
  weights; counts[0] is k, the others are those of `angle_by_top`.
  """
  return Comparison(
      **factored(old, new, groups, counts),
      **spread(old, update, counts[0]), **placed(update, heavy),
      **stored(weight, update, heavy))


Fields = dict[str, Any]  # some of those of Comparison
Factors = svd.SVD | in_place.Aside


def factored(
    old: Factors, new: Factors, groups: Int[Array, 'L R'],
    counts: tuple[int, ...],
) -> Fields:
  """What the factors say.

  Like `spread`, `placed` and `stored` a few programs, one after another, where
  it is not traced: each has little beside what it is given.
  """
  each = jax.block_until_ready
  sides = ('u', False), ('vt', True)
  both = lambda side: (getattr(old, side), getattr(new, side))  # may load them
  turned = [each(_nested(*both(side), rows, counts)) for side, rows in sides]
  k = counts[0]
  first = lambda x: svd.SVD(x.u[..., :k], x.s[..., :k], x.vt[..., :k, :])
  spectrum = each(_procrustes(first(old), first(new), groups, k))
  cosines = [each(rotation.span_cosine(*both(side), groups, rows=rows))
             for side, rows in sides]
  return _summed(old.s, new.s, turned, spectrum, cosines, counts)


@functools.partial(jax.jit, static_argnums=5)
def _summed(
    old: Float[Array, 'L R'], new: Float[Array, 'L R'],
    turned: list[dict[int, Float[Array, 'L _']]],
    spectrum: Float[Array, 'L K'], cosines: list[Float[Array, 'L R']],
    counts: tuple[int, ...],
) -> Fields:
  """What all of `factored` comes to, from what was found of either side."""
  k = counts[0]
  angles = {count: _larger(*(side[count] for side in turned))
            for count in turned[0]}
  cosine = jnp.minimum(*cosines)
  shift = rotation.value_shift(old, new)
  mean = functools.partial(jnp.mean, axis=-1)
  return dict(
      angles=angles[k], angle=mean(angles[k]),
      angle_by_top=jnp.stack([mean(angles[c]) for c in counts[1:]], axis=-1),
      procrustes_angles=spectrum, procrustes=mean(spectrum),
      projector_distance=jnp.sqrt(
          2 * jnp.sum(jnp.square(jnp.sin(angles[k])), axis=-1)),
      cosine=cosine, cosine_top=mean(cosine[..., :k]),
      alignment=principal.alignment(angles[k]),
      values=new, value_shift=shift, value_shift_top=mean(shift[..., :k]),
      nss=rotation.normalised_shift(old, new))


def spread(
    old: Factors, update: Float[Array, 'L M N'], k: int) -> Fields:
  """Over which directions the update spreads, and over how many."""
  each = jax.block_until_ready
  old = svd.SVD(old.u, old.s, old.vt)
  return dict(
      energy=each(_energy(old, update)),
      energy_principal=each(principal.energy(old, update, k)),
      update_norm=each(_norm(update)),
      stable_rank=each(updates.stable_rank(update)))


def placed(
    update: Float[Array, 'L M N'], heavy: Bool[Array, 'L M N']) -> Fields:
  """On which entries it falls."""
  return dict(on_principal=jax.block_until_ready(_on_principal(heavy, update)))


def stored(
    weight: Float[Array, 'L M N'], update: Float[Array, 'L M N'],
    heavy: Bool[Array, 'L M N'],
) -> Fields:
  """What bfloat16 storage shows of the update."""
  sparsity, on_principal = jax.block_until_ready(
      _visible(weight, update, heavy))
  return dict(sparsity=sparsity, on_principal_bf16=on_principal)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _nested(
    old: Float[Array, 'L _ _'], new: Float[Array, 'L _ _'],
    rows: bool, counts: tuple[int, ...],
) -> dict[int, Float[Array, 'L _']]:
  """Principal angles of the leading k, for each k; directions are `rows`."""
  return rotation.nested_angles(
      *((x.mT if rows else x) for x in (old, new)), counts)


@functools.partial(jax.jit, static_argnums=3)
def _procrustes(
    old: svd.SVD, new: svd.SVD, groups: Int[Array, 'L R'], k: int,
) -> Float[Array, 'L K']:
  return _larger(*procrustes.of_directions(old, new, groups[..., :k]))


_energy = jax.jit(rotation.energy)


@jax.jit
def _norm(update: Float[Array, 'L M N']) -> Float[Array, 'L']:
  return jnp.linalg.norm(update, axis=(-2, -1))


@jax.jit
def _on_principal(
    heavy: Bool[Array, 'L M N'], update: Float[Array, 'L M N'],
) -> Float[Array, 'L']:
  return principal.overlap(heavy, principal.largest(update))


@jax.jit
def _visible(
    weight: Float[Array, 'L M N'], update: Float[Array, 'L M N'],
    heavy: Bool[Array, 'L M N'],
) -> tuple[Float[Array, 'L'], Float[Array, 'L']]:
  unchanged = updates.unchanged(weight, weight + update)
  return (updates.sparsity(weight, weight + update),
          principal.overlap(heavy, jnp.logical_not(unchanged)))


def _larger(
    inputs: Float[Array, 'L K'], outputs: Float[Array, 'L K'],
) -> Float[Array, 'L K']:
  """The side of the larger mean."""
  more = (inputs.mean(axis=-1, keepdims=True)
          >= outputs.mean(axis=-1, keepdims=True))
  return jnp.where(jnp.broadcast_to(more, inputs.shape), inputs, outputs)
