"""Rotary position embedding, and the ways in which it is stretched.

Source: arXiv 2104.09864; halves convention, as in Llama's published weights.
Scalings: linear (arXiv 2306.15595), and Llama 3.1's, which leaves fast angles
alone and slows those whose wave is longer than the original context.
"""
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

SCALINGS = ('default', 'linear', 'llama3')


class Rope(NamedTuple):
  """How positions become angles; hashable, so that it is part of a model."""
  base: float = 10_000.0
  scaling: str = 'default'  # one of SCALINGS
  factor: float = 1.0  # how much longer the context becomes
  low_frequency: float = 1.0  # llama3: waves longer than context / this: slow
  high_frequency: float = 4.0  # llama3: waves shorter than context / this: not
  context: int = 8192  # llama3: positions of the original training


def frequencies(rope: Rope, size: int) -> Float[np.ndarray, 'half']:
  """Radians per position of each of the size / 2 pairs, float32.

  ValueError for an unknown scaling.
  """
  index = np.arange(0, size, 2, dtype=np.float32)
  plain = np.float32(1) / np.float32(rope.base) ** (index / np.float32(size))
  if rope.scaling == 'default':
    return plain
  if rope.scaling == 'linear':
    return plain / np.float32(rope.factor)
  if rope.scaling != 'llama3':
    raise ValueError(
        f'no rope scaling {rope.scaling!r}; known: {", ".join(SCALINGS)}')
  # Waves per original context: 0 at the slow end of the transition, 1 at the
  # fast one.
  waves = rope.context * plain / (2 * math.pi)
  share = (waves - rope.low_frequency) / (
      rope.high_frequency - rope.low_frequency)
  share = np.clip(share, 0, 1)
  return np.float32(share * plain + (1 - share) * plain / rope.factor)


def rotate(
    x: Float[Array, 'B T H E'], positions: Int[Array, 'B T'], rope: Rope,
) -> Float[Array, 'B T H E']:
  """Turns pairs (i, i + E / 2) of every head by position times frequency."""
  frequency = jnp.asarray(frequencies(rope, x.shape[-1]))
  angle = positions[:, :, None, None] * frequency[None, None, None]
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return turned.astype(x.dtype)
