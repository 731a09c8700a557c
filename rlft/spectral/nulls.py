"""What rotation means nothing: random updates, random subspaces, rounding.

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


def bf16_floor(w: Float[Array, '*L M N']) -> Float[Array, '*L M N']:
  """The update that storing w in bfloat16 amounts to: rounded - w."""
  w = w.astype(jnp.float32)
  # Not by casting to and fro, which a compiler may simplify away.
  return jax.lax.reduce_precision(w, exponent_bits=8, mantissa_bits=7) - w


ROWS = 256  # at a time
FORMATS = {7: (8, 7), 10: (5, 10), 23: (8, 23)}  # mantissa: exponent, mantissa


def stored_bits(w: Float[Array, '*L M N']) -> int:
  """Mantissa bits of the coarsest format that holds every entry exactly.

  7 for bfloat16, 10 for float16, 23 for float32: read off the values, so that
  bfloat16 weights in float32 arrays are known for what they are.
  """
  w = w.astype(jnp.float32)
  for mantissa, (exponent, _) in FORMATS.items():
    if bool(_exact(w, exponent, mantissa)):
      return mantissa
  raise ValueError('a matrix that is not finite has no storage format')


def storage(
    before: Float[Array, '*L M N'], after: Float[Array, '*L M N'],
) -> tuple[int, bool]:
  """Mantissa bits of the coarser of two, and whether `before` has no more."""
  stored = [stored_bits(x) for x in (before, after)]
  return min(stored), stored[0] <= stored[1]


@functools.partial(jax.jit, static_argnums=(1, 2))
def _exact(w: Float[Array, '*L M N'], exponent: int, mantissa: int) -> Array:
  return jnp.all(jax.lax.reduce_precision(w, exponent, mantissa) == w)


@functools.partial(jax.jit, static_argnums=(2, 3))
def storage_noise(
    key: Key[Array, ''], w: Float[Array, '*L M N'], bits: int, rounded: bool,
) -> Float[Array, '*L M N']:
  """A change of w that storing with `bits` of mantissa could have made.

  Where w itself is finer (`rounded` is False): what rounding does to it. Where
  both checkpoints are rounded: two independent errors, each uniform over half
  a step either way, as large as theirs may be.
  """
  w = w.astype(jnp.float32)
  if not rounded:
    return jax.lax.reduce_precision(w, *FORMATS[bits]) - w
  rows = w.reshape(-1, w.shape[-1])
  # Some rows at a time: random bits take five times the memory of the result.
  noise = jax.lax.map(
      lambda row: _rounded_twice(*row, bits),
      (jax.random.split(key, len(rows)), rows), batch_size=ROWS)
  return noise.reshape(w.shape)


def _rounded_twice(
    key: Key[Array, ''], w: Float[Array, 'N'], bits: int) -> Float[Array, 'N']:
  # The power of two below |w|, and the step that follows it.
  words = jax.lax.bitcast_convert_type(w, jnp.uint32)
  power = jax.lax.bitcast_convert_type(
      words & jnp.uint32(0x7f800000), jnp.float32)
  step = power * 2.**-bits
  one, other = jax.random.uniform(key, (2, *w.shape), minval=-.5, maxval=.5)
  # As the sum is stored: noise below the last bit is none.
  return (w + step * (one + other)) - w


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
