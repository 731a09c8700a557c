"""AdamW whose moments are kept in 8 bits: 6 bytes a parameter less.

Moments of 8 bits after arXiv 2110.02861, as floats of 8 bits as in arXiv
2310.18313: each row (last axis) has one scale and numbers of float8_e4m3. Of
the second moment the root is kept, whose range is half as wide. Rounding is
stochastic: an average moves by less than what 3 bits of mantissa tell apart,
and rounded to the nearest number it would stand still.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

KIND = jnp.float8_e4m3fn
LARGEST = float(jnp.finfo(KIND).max)  # 448
SMALLEST = float(jnp.finfo(KIND).smallest_subnormal)  # 2**-9
DROPPED = np.uint32(2**20 - 1)  # bits of a float32's mantissa beyond three
TINY = 1e-30  # a row whose largest number is smaller has the scale of this


class Kept(NamedTuple):
  """Trees of numbers of 8 bits and of the scales of their rows."""
  values: PyTree  # (..., N) float8
  scale: PyTree  # (..., 1) float32, powers of two


class State(NamedTuple):
  """Adam's, with its moments in 8 bits; `root` is of the second."""
  count: Int[Array, '']
  mu: Kept
  root: Kept


def scale(
    *, b1: float = 0.9, b2: float = 0.95, eps: float = 1e-8,
) -> optax.GradientTransformation:
  """As AdamW's; a root that was rounded to 0 counts as the smallest number."""
  adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)

  def init(params):
    none = Kept(
        jax.tree.map(lambda x: jnp.zeros(x.shape, KIND), params),
        jax.tree.map(lambda x: jnp.zeros(
            (*x.shape[:-1], 1) if x.ndim else ()), params))
    return State(jnp.zeros((), jnp.int32), none, none)

  def update(grads, state, params=None):
    nu = jax.tree.map(
        lambda x, by: jnp.maximum(x, by * SMALLEST)**2, read(state.root),
        state.root.scale)
    found, new = adam.update(grads, optax.ScaleByAdamState(
        state.count, read(state.mu), nu), params)
    key = jax.random.fold_in(jax.random.key(0), state.count)
    first, second = jax.random.split(key)
    return found, State(new.count, write(new.mu, first), write(
        jax.tree.map(jnp.sqrt, new.nu), second))

  return optax.GradientTransformation(init, update)


def read(kept: Kept) -> PyTree:
  """The numbers in float32."""
  return jax.tree.map(
      lambda x, by: x.astype(jnp.float32) * by, kept.values, kept.scale)


def write(tree: PyTree, key: Key[Array, '']) -> Kept:
  """Each leaf in 8 bits, every one rounded by a key of its own."""
  leaves, structure = jax.tree.flatten(tree)
  pairs = [round_rows(x, jax.random.fold_in(key, i))
           for i, x in enumerate(leaves)]
  return Kept(structure.unflatten([values for values, _ in pairs]),
              structure.unflatten([by for _, by in pairs]))


def round_rows(
    x: Float[Array, '*R'], key: Key[Array, ''],
) -> tuple[Float[Array, '*R'], Float[Array, '*S']]:
  """Values of 8 bits and scales whose product is x in the mean.

  But for what is below 2**-6 of a scale, which is rounded to the nearest.
  """
  size = jnp.abs(x) if x.ndim == 0 else jnp.max(
      jnp.abs(x), axis=-1, keepdims=True)
  # A power of two: dividing by it rounds nothing.
  by = jnp.ldexp(1.0, jnp.frexp(jnp.maximum(size, TINY) / LARGEST)[1])
  bits = jax.lax.bitcast_convert_type(x / by, jnp.uint32)
  noise = jax.random.bits(key, x.shape, jnp.uint32) & DROPPED
  near = jax.lax.bitcast_convert_type((bits + noise) & ~DROPPED, jnp.float32)
  return near.astype(KIND), jnp.where(size > 0, by, 0.0)
