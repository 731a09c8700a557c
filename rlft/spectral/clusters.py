"""Which singular directions can be told apart.

A perturbation of largest singular value d turns a direction by about d / gap
(Wedin 1972): directions whose values lie closer together than the noise of
their matrix are one subspace, and only that is identifiable.
"""
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

ARITHMETIC = 8  # float32 roundings of the largest value: error of a kernel


def resolvable(
    s: Float[Array, '*L K'], noise: Float[Array, '*L M N'],
) -> Float[Array, '*L']:
  """The smallest gap that means anything, in the units of the values.

  The larger of the kernel's rounding and the norm of `noise`, independent
  entries such as storage's, by its longest row plus its longest column: within
  a small factor its largest singular value (Bandeira and van Handel 2016).
  """
  rows, columns = (
      jnp.max(jnp.linalg.norm(noise, axis=axis), axis=-1) for axis in (-1, -2))
  rounding = ARITHMETIC * jnp.finfo(jnp.float32).eps * s[..., 0]
  return jnp.maximum(rows + columns, rounding)


def groups(
    s: Float[Array, '*L K'], gap: Float[Array, '*L'],
) -> Int[Array, '*L K']:
  """Number of the cluster of each value, from 0 on.

  Neighbours (in descending order) are in one cluster when their difference is
  below `gap`; so a chain of small differences is one cluster however long.
  """
  apart = s[..., :-1] - s[..., 1:] >= gap[..., None]
  first = jnp.zeros_like(s[..., :1], dtype=jnp.int32)
  return jnp.concatenate(
      [first, jnp.cumsum(apart.astype(jnp.int32), axis=-1)], axis=-1)


def together(groups: Int[Array, '*L K']) -> Bool[Array, '*L K K']:
  """Which pairs of directions share a cluster."""
  shape = (*groups.shape, groups.shape[-1])
  return (jnp.broadcast_to(groups[..., :, None], shape)
          == jnp.broadcast_to(groups[..., None, :], shape))
