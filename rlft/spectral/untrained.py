"""Whether a spectrum is that of a matrix that was never trained.

Singular values of independent entries follow the law of Marchenko and Pastur
(1967), whatever the distribution of the entries; training leaves directions
beyond its edge. Published spectra of "trained" weights have been those of
matrices that were drawn afresh because no stored tensor had their name.
"""
import functools

import numpy as np
from jaxtyping import Float

LEAST = 32  # directions, below which chance moves a spectrum too far to tell


def looks_untrained(
    s: Float[np.ndarray, 'R'], m: int, n: int,
) -> bool:
  """True when the values fit independent entries of their own variance.

  Two tests, with r = min(m, n): the largest value is at the law's edge within
  2 r^(-2/3), the order of its fluctuations (Tracy and Widom), and the
  distribution is nowhere further from the law than 1.2 log(r) / r. What was
  drawn afresh passes both (1.5 and 0.9 are the most in 2,000 draws of three
  distributions). The converse does not hold: a trained matrix may pass too, as
  several of a small model do; that all of a checkpoint's do is the alarm. A
  matrix with fewer than 32 directions, or of zeros, never looks untrained.
  """
  s = np.float64(s)
  r = min(m, n)
  if r < LEAST or not s.any():
    return False
  # Values of entries of variance 1 / max(m, n).
  s = np.sort(s) * np.sqrt(r / np.square(s).sum())
  ratio = r / max(m, n)
  edge = 1 + np.sqrt(ratio)
  if abs(s[-1] / edge - 1) > 2 * r ** (-2 / 3):
    return False
  grid, below = _law(ratio)
  expected = np.interp(s, grid, below)
  found = np.arange(r + 1) / r
  distance = max(
      np.abs(expected - found[1:]).max(), np.abs(expected - found[:-1]).max())
  return bool(distance <= 1.2 * np.log(r) / r)


@functools.lru_cache
def _law(
    ratio: float,
) -> tuple[Float[np.ndarray, 'G'], Float[np.ndarray, 'G']]:
  """Values and the share of them below, for r / max(m, n)."""
  low, high = (1 - np.sqrt(ratio)) ** 2, (1 + np.sqrt(ratio)) ** 2
  # In the angle phi the density has no singular ends.
  phi = np.linspace(0, np.pi, 20_001)
  squared = (low + high) / 2 - (high - low) / 2 * np.cos(phi)
  density = np.square((high - low) / 2 * np.sin(phi)) / np.maximum(
      2 * np.pi * ratio * squared, 1e-300)
  if low < 1e-12:
    density[0] = 2 * high / 2 / (2 * np.pi * ratio)
  below = np.concatenate(
      [[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(phi))])
  return np.sqrt(squared), below / below[-1]
