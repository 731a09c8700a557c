"""Matrix products of the kernel for TPUs: in float32, or coarse in bfloat16.

A TPU multiplies bfloat16 numbers; float32 takes six such passes, and only if
asked for. Every product here carries `highest`, so that no platform's default
(bfloat16 on TPUs, TF32 on GPUs) can lower it; the coarse one rounds its
operands by itself and costs one pass.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PASSES = {'full': 6, 'coarse': 1}  # bfloat16 passes that a product costs


def full(
    a: Float[Array, '*L M K'], b: Float[Array, '*L K N'],
) -> Float[Array, '*L M N']:
  """a @ b in float32."""
  return jnp.matmul(a, b, precision='highest')


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
