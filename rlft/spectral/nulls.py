"""What rotation means nothing: random updates, random subspaces, rounding.

Any small update leaves singular values and scrambles individual directions in
a dense spectrum, so a measured angle or energy is a finding only as far as it
exceeds these (base paper arXiv 2508.16546 reports angles without a null).
"""
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Key

from rlft.spectral import rotation


def norm_matched(
    key: Key[Array, ''], update: Float[Array, '*L M N'],
) -> Float[Array, '*L M N']:
  """A Gaussian update with the Frobenius norm of each matrix of `update`."""
  noise = jax.random.normal(key, update.shape, jnp.float32)
  length = lambda x: jnp.linalg.norm(x, axis=(-2, -1), keepdims=True)
  # Scaled by the largest entry, as squares of a tiny update underflow.
  update = update.astype(jnp.float32)
  size = jnp.max(jnp.abs(update), axis=(-2, -1), keepdims=True)
  relative = length(update / jnp.where(size > 0, size, 1))
  return noise * (relative / length(noise)) * size


def bf16_floor(w: Float[Array, '*L M N']) -> Float[Array, '*L M N']:
  """The update that storing w in bfloat16 amounts to: rounded - w."""
  w = w.astype(jnp.float32)
  # Not by casting to and fro, which a compiler may simplify away.
  return jax.lax.reduce_precision(w, exponent_bits=8, mantissa_bits=7) - w


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
