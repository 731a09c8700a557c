"""Matrix products of the kernel for TPUs: in float32, or coarse in bfloat16.

A TPU multiplies bfloat16 numbers; float32 takes six such passes, and only if
asked for. Every product here carries `highest`, so that no platform's default
(bfloat16 on TPUs, TF32 on GPUs) can lower it; the coarse one rounds its
operands by itself and costs one pass.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PASSES = {'full': 6, 'coarse': 1}  # bfloat16 passes that a product costs


def full(
    a: Float[Array, '*L M K'], b: Float[Array, '*L K N'],
) -> Float[Array, '*L M N']:
  """a @ b in float32."""
  return jnp.matmul(a, b, precision='highest')


def large(
    a: Float[Array, 'M K'], b: Float[Array, 'K N'], *,
    onto: Float[Array, 'M N'] | None = None, product: Callable | None = None,
) -> Float[Array, 'M N']:
  """`product` of big matrices, a tile at a time; added to `onto` if given.

  `product` is `full` or `coarse`, `full` where it is not named.

  A float32 product of two 4096 x 4096 matrices compiles for a TPU for ten
  seconds, every time that it stands in a program; a loop over tiles for one.
  """
  product = product or full
  height, depth, width = map(panel, (*a.shape, b.shape[1]))
  steps, columns = a.shape[1] // depth, b.shape[1] // width
  out = jnp.zeros((a.shape[0], b.shape[1]), a.dtype) if onto is None else onto

  def add(i, out):
    row, column = i // (columns * steps) * height, i // steps % columns * width
    at = i % steps * depth
    left = jax.lax.dynamic_slice(a, (row, at), (height, depth))
    right = jax.lax.dynamic_slice(b, (at, column), (depth, width))
    tile = jax.lax.dynamic_slice(out, (row, column), (height, width))
    return jax.lax.dynamic_update_slice(
        out, tile + product(left, right), (row, column))

  return jax.lax.fori_loop(
      0, a.shape[0] // height * columns * steps, add, out)


def panel(size: int) -> int:
  """The largest divisor of `size` up to 512 that is a multiple of 128.

  A size that has none, or that is small, is one panel.
  """
  found = [w for w in (512, 384, 256, 128) if size % w == 0]
  return found[0] if found and size > 512 else size


def total(x: Float[Array, 'M N']) -> Float[Array, ' N']:
  """Sums of columns, in 64 parts and then of the parts.

  A sum of equal terms, one after the other, is off by half a rounding each.
  """
  m, n = x.shape
  parts = jnp.pad(x, ((0, -m % 64), (0, 0))).reshape(64, -1, n)
  return jnp.sum(jnp.sum(parts, axis=1), axis=0)


def coarse(
    a: Float[Array, '*L M K'], b: Float[Array, '*L K N'],
) -> Float[Array, '*L M N']:
  """a @ b of operands rounded to bfloat16, summed in float32."""
  # CPUs multiply bfloat16 slowly: there the same numbers stay in float32.
  return jax.lax.platform_dependent(a, b, cpu=_rounded, default=_narrow)


def _rounded(a, b):
  a, b = (jax.lax.reduce_precision(x, 8, 7) for x in (a, b))
  return jnp.matmul(a, b, precision='highest')


def _narrow(a, b):
  a, b = (x.astype(jnp.bfloat16) for x in (a, b))
  return jnp.matmul(
      a, b, precision='highest', preferred_element_type=jnp.float32)
