"""Flax modules that model families share."""
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rlft.ops import sharding


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def product(
    x: Float[Array, '*B M'], kernel: Float[Array, 'M N'], result: Any = None,
    path: str = '',
) -> Float[Array, '*B N']:
  """x @ kernel, added up and returned in the dtype `result`.

  Its gradient by the kernel is made as the kernel lies; JAX's own comes turned
  round, and turning it costs a tenth of a step on CPUs. By `path` it is cut
  over devices as the kernel is: there each adds up its own part.
  """
  return jnp.matmul(x, kernel, preferred_element_type=result)


def _forward(x, kernel, result, path):
  return product(x, kernel, result, path), (x, kernel)


def _backward(result, path, kept, dy):
  x, kernel = kept
  dot = functools.partial(
      jax.lax.dot_general, preferred_element_type=result)
  dx = dot(dy, kernel, (((dy.ndim - 1,), (1,)), ((), ())))
  if sharding.platform() == 'cpu':  # which else turns x round, too
    x, dy = (y.reshape(-1, y.shape[-1]) for y in (x, dy))
  rows = tuple(range(x.ndim - 1))
  dw = sharding.parameter(dot(x, dy, ((rows, rows), ((), ()))), path)
  return dx.astype(x.dtype), dw.astype(kernel.dtype)


product.defvjp(_forward, _backward)


def cast(tree: PyTree, dtype: Any) -> PyTree:
  """Parameters, or their shapes, in the dtype that they are computed in.

  What a norm scales by stays: it computes in float32.
  """
  def leaf(path, x):
    if path[-1].key == 'scale':
      return x
    return x.update(dtype=dtype) if isinstance(
        x, jax.ShapeDtypeStruct) else x.astype(dtype)

  return jax.tree_util.tree_map_with_path(leaf, tree)


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
    y = product(
        x, kernel.astype(self.dtype), self.result, f'{self.name}/kernel')
    if self.has_variable('lora', 'a'):  # see adapters/lora.py
      a, b = (self.get_variable('lora', name).astype(self.dtype)
              for name in 'ab')
      y = y + product(product(x, a), b, self.result)
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
