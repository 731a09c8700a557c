"""What rotation means nothing: random updates, random subspaces, rounding.

Any small update leaves singular values and scrambles individual directions in
a dense spectrum, so a measured angle or energy is a finding only as far as it
exceeds these (base paper arXiv 2508.16546 reports angles without a null).
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Key

from rlft.spectral import rotation


@jax.jit
def norm_matched(
    key: Key[Array, ''], update: Float[Array, '*L M N'],
) -> Float[Array, '*L M N']:
  """A Gaussian update with the Frobenius norm of each matrix of `update`."""
  noise = jax.random.normal(key, update.shape, jnp.float32)
  return scaled(noise, update)


@jax.jit
def scaled(
    other: Float[Array, '*L M N'], update: Float[Array, '*L M N'],
) -> Float[Array, '*L M N']:
  """`other` with the Frobenius norm of each matrix of `update`; zero stays."""
  length = lambda x: jnp.linalg.norm(x, axis=(-2, -1), keepdims=True)
  # By the largest entries, as squares of a tiny update underflow.
  largest = lambda x: jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)
  divide = lambda x, y: x / jnp.where(y > 0, y, 1)
  update, other = (x.astype(jnp.float32) for x in (update, other))
  size = largest(update)
  other = divide(other, largest(other))
  return divide(other, length(other)) * length(divide(update, size)) * size


def bf16_floor(w: Float[Array, '*L M N']) -> Float[Array, '*L M N']:
  """The update that storing w in bfloat16 amounts to: rounded - w."""
  w = w.astype(jnp.float32)
  # Not by casting to and fro, which a compiler may simplify away.
  return jax.lax.reduce_precision(w, exponent_bits=8, mantissa_bits=7) - w


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
  # The step below the next power of two.
  _, exponent = jnp.frexp(w)
  step = jnp.where(w == 0, 0, jnp.ldexp(jnp.ones_like(w), exponent - 1 - bits))
  one, other = (jax.random.uniform(k, w.shape, minval=-.5, maxval=.5)
                for k in jax.random.split(key))
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
