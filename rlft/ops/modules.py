"""Flax modules that model families share."""
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array


class Dense(nn.Module):
  """A kernel, maybe a bias and an adapter, in the compute dtype."""
  features: int
  dtype: Any
  scale: float = 1.0
  bias: bool = False
  result: Any = None  # dtype that products are added up and returned in

  @nn.compact
  def __call__(self, x: Array) -> Array:
    init = nn.initializers.variance_scaling(self.scale, 'fan_in', 'normal')
    kernel = self.param('kernel', init, (x.shape[-1], self.features))
    y = jnp.matmul(x, kernel.astype(self.dtype),
                   preferred_element_type=self.result)
    if self.has_variable('lora', 'a'):  # see adapters/lora.py
      a, b = (self.get_variable('lora', name).astype(self.dtype)
              for name in 'ab')
      y = y + jnp.matmul(jnp.matmul(x, a), b,
                         preferred_element_type=self.result)
    if not self.bias:
      return y
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    return y + jnp.broadcast_to(bias.astype(self.dtype), y.shape)


class RMSNorm(nn.Module):
  """Root-mean-square norm in float32 (arXiv 1910.07467)."""
  epsilon: float

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    wide = x.astype(jnp.float32)
    power = jnp.mean(wide * wide, axis=-1, keepdims=True)
    normed = wide * jax.lax.rsqrt(power + self.epsilon)
    return (normed * jnp.broadcast_to(scale, x.shape)).astype(x.dtype)
