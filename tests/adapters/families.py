"""A tiny model of every family, by the fields in which they differ."""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlft import presets
from rlft.models import transformer
from tests import tiny

V = 24
FAMILIES = {
    'llama': {},
    'llama_tied': dict(tied=True, rope=dict(
        presets.LLAMA_3, factor=8.0, context=64)),
    'qwen2': dict(qkv_bias=True),
    'qwen3': dict(qk_norm=True, head_size=16, tied=True),
    'mllama': dict(extra_embeddings=8)}
TOKENS = jnp.array([[0, 1, 7, 9, 4, 13], [1, 3, 8, 2, 6, 5]], jnp.int32)


@functools.cache
def model(family: str, dtype: str = 'float32') -> transformer.Model:
  return transformer.make(vocabulary=V, dtype=dtype, shape={
      **presets.SHAPES['tiny'], 'vocabulary': V, **FAMILIES[family]})


@functools.cache
def params(family: str) -> dict:
  """{'policy': ...} in which no bias is 0 and no norm 1."""
  fresh = transformer.initialise(model(family), jax.random.key(0))
  return {'policy': tiny.noised(fresh, 0.05)}


def moved(tree, scale: float = 0.1, seed: int = 0):
  """Gaussian noise on every leaf: a B that is not 0 any more."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda x: x + jnp.asarray(scale * rng.normal(size=x.shape), x.dtype),
      tree)
