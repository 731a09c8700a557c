"""Intervals of success rates and of differences, on the host (numpy only).

  wilson            one rate: score interval (Wilson 1927)
  newcombe          difference of two independent rates (Newcombe 1998,
                    method 10: Wilson intervals combined)
  resample          bootstrap draws of the rates of conditions that were
                    measured on the same seeds and the same hands
  paired_bootstrap  difference of two such conditions
  mean_bootstrap    mean of any measurements, grouped by seed

The bootstraps are hierarchical: seeds are drawn with replacement, then the
hands (or members) of each drawn seed. With one seed only the hands vary.
Intervals are percentile intervals. Rates are in [0, 1]; H counts hands, C
conditions, S bootstrap draws.
"""
import math
import statistics
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float


def wilson(successes: int, n: int,
           confidence: float = .95) -> tuple[float, float]:
  """Score interval of a rate; ValueError unless 0 <= successes <= n, n > 0."""
  if not (n > 0 and 0 <= successes <= n):
    raise ValueError(
        f'{successes} successes of {n}: give 0 <= successes <= n with n > 0')
  z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
  rate = successes / n
  scale = 1 / (1 + z * z / n)
  centre = scale * (rate + z * z / (2 * n))
  half = scale * z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
  # At 0 and n the exact ends are 0 and 1; rounding must not move them.
  low = 0. if successes == 0 else max(0., centre - half)
  high = 1. if successes == n else min(1., centre + half)
  return low, high


def newcombe(successes_after: int, n_after: int, successes_before: int,
             n_before: int, confidence: float = .95
             ) -> tuple[float, float, float]:
  """(difference, low, high) of two independent rates, after - before."""
  a, b = successes_after / n_after, successes_before / n_before
  a_low, a_high = wilson(successes_after, n_after, confidence)
  b_low, b_high = wilson(successes_before, n_before, confidence)
  return (a - b, a - b - math.hypot(a - a_low, b_high - b),
          a - b + math.hypot(a_high - a, b - b_low))


def quantiles(draws: Float[np.ndarray, 'S'],
              confidence: float = .95) -> tuple[float, float]:
  """The percentile interval of bootstrap draws."""
  tail = (1 - confidence) / 2
  low, high = np.quantile(draws, [tail, 1 - tail])
  return float(low), float(high)


def resample(solved: Sequence[Bool[np.ndarray, 'C _']], *,
             resamples: int = 2000, seed: int = 0,
             stream: int = 0) -> Float[np.ndarray, 'S C']:
  """Draws of the C rates, meaned over the drawn seeds.

  `solved` holds one array per seed: which hands each condition solved. All
  conditions see the same drawn hands, so differences keep their pairing. Two
  calls with one `seed` draw the same seeds; `stream` tells sets of hands apart
  (ID from OOD), which are independent given the seeds.
  """
  count = len(solved)
  chosen = np.random.default_rng(seed).integers(
      count, size=(resamples, count))
  rng = np.random.default_rng((seed, stream + 1))
  rates = np.empty((resamples, count, solved[0].shape[0]))
  for i, bits in enumerate(solved):
    # Hands with one pattern over the conditions are exchangeable: drawing
    # hands is drawing how often each pattern comes.
    patterns, times = np.unique(bits, axis=1, return_counts=True)
    slots = chosen == i
    drawn = rng.multinomial(
        bits.shape[1], times / times.sum(), size=int(slots.sum()))
    rates[slots] = drawn @ patterns.T.astype(float) / bits.shape[1]
  return rates.mean(axis=1)


def paired_bootstrap(after: Sequence[Bool[np.ndarray, '_']],
                     before: Sequence[Bool[np.ndarray, '_']], *,
                     confidence: float = .95, resamples: int = 2000,
                     seed: int = 0) -> tuple[float, float, float]:
  """(difference, low, high) of two rates over the same seeds and hands.

  One array per seed in each argument, hand by hand in the same order.
  ValueError if the seeds or the hands do not pair up.
  """
  if not after or [a.shape for a in after] != [b.shape for b in before]:
    raise ValueError(
        'a paired bootstrap needs the same seeds and hands on both sides: got '
        f'{[a.size for a in after]} and {[b.size for b in before]} hands')
  pairs = [np.stack(pair) for pair in zip(after, before, strict=True)]
  draws = resample(pairs, resamples=resamples, seed=seed)
  difference = np.mean([a.mean() - b.mean() for a, b in pairs])
  return float(difference), *quantiles(draws[:, 0] - draws[:, 1], confidence)


def mean_bootstrap(groups: Sequence[Float[np.ndarray, '_']], *,
                   confidence: float = .95, resamples: int = 2000,
                   seed: int = 0) -> tuple[float, float, float]:
  """(mean, low, high) over groups (seeds) of the mean of their members."""
  if not groups or any(group.size == 0 for group in groups):
    raise ValueError('a mean needs at least one member in every group')
  rng = np.random.default_rng(seed)
  count = len(groups)
  chosen = rng.integers(count, size=(resamples, count))
  means = np.empty((resamples, count))
  for i, group in enumerate(groups):
    slots = chosen == i
    means[slots] = rng.choice(
        group, size=(int(slots.sum()), group.size)).mean(axis=-1)
  draws = means.mean(axis=1)
  mean = np.mean([group.mean() for group in groups])
  return float(mean), *quantiles(draws, confidence)
