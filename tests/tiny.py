"""What several tests share: the shipped words and a model of a tiny size."""
import functools

import jax
import jax.numpy as jnp

from rlft import tokenizer
from rlft.models import transformer


@functools.cache
def words() -> tokenizer.Tokenizer:
  return tokenizer.load('asset:points24')


@functools.cache
def model() -> transformer.Model:
  return transformer.make(preset='tiny', vocabulary=words().vocabulary)


@functools.cache
def initialised(seed: int = 0) -> dict:
  """Fresh parameters {'policy': ...}; nobody may donate them."""
  make = jax.jit(functools.partial(transformer.initialise, model()))
  return {'policy': make(jax.random.key(seed))}


def noised(params: dict, scale: float, seed: int = 1) -> dict:
  """A copy with Gaussian noise of this deviation on every parameter."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return tree.unflatten([
      x + scale * jax.random.normal(k, x.shape)
      for x, k in zip(leaves, keys, strict=True)])


def some_tokens(rows: int, columns: int, seed: int = 0) -> jax.Array:
  """Random words, none of them special."""
  return jax.random.randint(
      jax.random.key(seed), (rows, columns), 4, words().vocabulary, jnp.int32)
