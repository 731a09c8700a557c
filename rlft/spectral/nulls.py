"""What rotation means nothing: random updates and random subspaces.

Any small update leaves singular values and scrambles individual directions in
a dense spectrum, so a measured angle or energy is a finding only as far as it
exceeds these (base paper arXiv 2508.16546 reports angles without a null).
"""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Key

from rlft.spectral import rotation


def check_seed(seed: int) -> None:
  """ValueError for a seed of which another one would be an alias."""
  if not 0 <= seed < 2**32:
    raise ValueError(f'seed={seed} is not between 0 and 2^32 - 1')


class Size(NamedTuple):
  """How large each matrix of a stack is: all that a random update needs."""
  largest: Float[Array, '*L 1 1']  # entry
  norm: Float[Array, '*L 1 1']  # Frobenius, in units of the largest entry


@jax.jit
def size(w: Float[Array, '*L M N']) -> Size:
  """By the largest entry, as squares of a tiny update underflow."""
  w = w.astype(jnp.float32)
  largest = jnp.max(jnp.abs(w), axis=(-2, -1), keepdims=True)
  return Size(largest, jnp.linalg.norm(
      _divide(w, largest), axis=(-2, -1), keepdims=True))


@jax.jit
def norm_matched(
    key: Key[Array, ''], update: Float[Array, '*L M N'],
) -> Float[Array, '*L M N']:
  """A Gaussian update with the Frobenius norm of each matrix of `update`."""
  return gaussian(key, size(update), update.shape)


@functools.partial(jax.jit, static_argnums=2)
def gaussian(
    key: Key[Array, ''], like: Size, shape: tuple[int, ...],
) -> Float[Array, '*L M N']:
  """A Gaussian update of a given size."""
  return _resized(jax.random.normal(key, shape, jnp.float32), like)


@jax.jit
def scaled(
    other: Float[Array, '*L M N'], update: Float[Array, '*L M N'],
) -> Float[Array, '*L M N']:
  """`other` with the Frobenius norm of each matrix of `update`; zero stays."""
  return _resized(other.astype(jnp.float32), size(update))


def _resized(
    other: Float[Array, '*L M N'], like: Size) -> Float[Array, '*L M N']:
  own = size(other)
  other = _divide(_divide(other, own.largest), own.norm)
  return other * like.norm * like.largest


def _divide(
    x: Float[Array, '*L M N'], y: Float[Array, '*L 1 1'],
) -> Float[Array, '*L M N']:
  return x / jnp.where(y > 0, y, 1)


def random_subspace_angles(m: int, n: int, k: int) -> rotation.Sides:
  """Expected principal angles of unrelated k-dim subspaces of R^m and R^n.

  Radians, ascending: quantiles of the limiting law (Wachter 1980) of the
  product of two free projections with trace x = k / n, whose squared cosines
  lie below 4x(1 - x). When 2k > n the subspaces must meet, and exactly 2k - n
  of the angles are zero whatever the matrices are: no sign of agreement.
  """
  if not 1 <= k <= min(m, n):
    raise ValueError(f'no {k}-dimensional subspaces in a {m} x {n} matrix')
  return rotation.Sides(
      jnp.asarray(_law(m, k)), jnp.asarray(_law(n, k)))


def _law(n: int, k: int) -> Float32[np.ndarray, 'K']:
  zeros = max(2 * k - n, 0)
  free = k - zeros
  if not free:
    return np.zeros(k, np.float32)
  x = k / n
  edge = 4 * x * (1 - x)
  # With cos^2 = edge sin^2(phi) the distribution function is elementary.
  root = abs(1 - 2 * x)
  phi = np.linspace(0, np.pi / 2, 20_001)
  below = (phi - root * np.arctan2(root * np.sin(phi), np.cos(phi))) / np.pi
  middle = (np.arange(free) + .5) / free * below[-1]
  found = np.interp(middle, below, phi)
  angles = np.arccos(np.sqrt(edge) * np.sin(found))
  return np.concatenate([np.zeros(zeros), np.sort(angles)]).astype(np.float32)
