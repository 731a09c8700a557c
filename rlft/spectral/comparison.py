"""All that is said about an update to a stack, for it and for its nulls alike.

One function makes the numbers of a real update, of a random one and of storage
noise, so that they can be held against each other.
"""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlft.spectral import principal, procrustes, rotation, svd, updates


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
  k = counts[0]
  turned = _turned(old, new, counts)
  spectrum = _larger(*procrustes.of_directions(
      svd.leading(old, k), svd.leading(new, k), groups[..., :k]))
  cosine = jnp.minimum(*rotation.cosine(old, new, groups))
  shift = rotation.value_shift(old.s, new.s)
  unchanged = updates.unchanged(weight, weight + update)
  mean = functools.partial(jnp.mean, axis=-1)
  return Comparison(
      angles=turned[k], angle=mean(turned[k]),
      angle_by_top=jnp.stack([mean(turned[c]) for c in counts[1:]], axis=-1),
      procrustes_angles=spectrum, procrustes=mean(spectrum),
      projector_distance=jnp.sqrt(
          2 * jnp.sum(jnp.square(jnp.sin(turned[k])), axis=-1)),
      cosine=cosine, cosine_top=mean(cosine[..., :k]),
      alignment=principal.alignment(turned[k]),
      values=new.s, value_shift=shift, value_shift_top=mean(shift[..., :k]),
      nss=rotation.normalised_shift(old.s, new.s),
      energy=rotation.energy(old, update),
      energy_principal=principal.energy(old, update, k),
      update_norm=jnp.linalg.norm(update, axis=(-2, -1)),
      stable_rank=updates.stable_rank(update),
      sparsity=updates.sparsity(weight, weight + update),
      on_principal=principal.overlap(heavy, principal.largest(update)),
      on_principal_bf16=principal.overlap(heavy, jnp.logical_not(unchanged)))


def _turned(
    old: svd.SVD, new: svd.SVD, counts: tuple[int, ...],
) -> dict[int, Float[Array, 'L _']]:
  """Principal angles of the leading k, for each k."""
  inputs = rotation.nested_angles(old.u, new.u, counts)
  outputs = rotation.nested_angles(old.vt.mT, new.vt.mT, counts)
  return {k: _larger(inputs[k], outputs[k]) for k in inputs}


def _larger(
    inputs: Float[Array, 'L K'], outputs: Float[Array, 'L K'],
) -> Float[Array, 'L K']:
  """The side of the larger mean."""
  more = (inputs.mean(axis=-1, keepdims=True)
          >= outputs.mean(axis=-1, keepdims=True))
  return jnp.where(jnp.broadcast_to(more, inputs.shape), inputs, outputs)
