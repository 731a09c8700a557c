"""Intervals of success rates and of differences, on the host (numpy only).

  wilson      one rate: score interval (Wilson 1927)
  newcombe    difference of two independent rates (Newcombe 1998, method 10:
              Wilson intervals combined)
  resample    bootstrap draws of the rates of conditions that were measured on
              the same seeds and the same hands
  contrast    a weighted sum of such rates: a rate, a paired difference, ...

Hands of one *problem* (orders of one multiset, say) go right or wrong
together, so the bootstraps draw whole problems (a cluster bootstrap: Davison
and Hinkley 1997, 3.8). Seeds that met the same hands are crossed with the
problems, not nested: a draw takes seeds and, once for all of them, problems.
With one seed only the problems vary, and an interval says nothing about other
seeds; with two or three it says little. Intervals are percentile intervals.
Rates are in [0, 1]; H counts hands, P problems, C conditions, S bootstrap
draws.
"""
import functools
import math
import statistics
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int


def wilson(successes: int | float, n: int | float,
           confidence: float = .95) -> tuple[float, float]:
  """Score interval of a rate; ValueError unless 0 <= successes <= n, n > 0.

  Counts may be fractions: those of an effective sample size.
  """
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


def newcombe(successes_after: int | float, n_after: int | float,
             successes_before: int | float, n_before: int | float,
             confidence: float = .95) -> tuple[float, float, float]:
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


def resample(values: Sequence[Bool[np.ndarray, 'C _'] |
                              Float[np.ndarray, 'C _']],
             problems: Sequence[Int[np.ndarray, '_']], *,
             resamples: int = 2000, seed: int = 0,
             stream: int = 0) -> Float[np.ndarray, 'S C']:
  """Draws of the C rates, meaned over the drawn seeds.

  `values` holds one array per seed: which hands each condition solved (or any
  measurement of them); `problems` the number of each hand's problem. All
  conditions see the same drawn problems, so differences keep their pairing,
  and so do all seeds with equal `problems`; seeds with others met other hands
  and have draws of their own. Drawn problems differ in size: a rate is their
  successes over their hands. Two calls with one `seed` draw the same seeds;
  `stream` tells sets of hands apart (ID from OOD), which are independent
  given the seeds.
  """
  count = len(values)
  share = np.random.default_rng(seed).multinomial(
      count, np.full(count, 1 / count), size=resamples) / count
  rates = np.zeros((resamples, values[0].shape[0]))
  for group, members in enumerate(_crossed(problems)):
    sums, sizes = [], None
    for i in members:
      total, sizes = per_problem(values[i], problems[i])
      sums.append(total)
    times = _times(sizes.size, resamples, (seed, stream + 1, group))
    drawn = times @ np.concatenate([*sums, sizes[None]]).T
    each = (drawn[:, :-1] / drawn[:, -1:]).reshape(
        resamples, len(members), -1)
    rates += np.einsum('sm,smc->sc', share[:, members], each)
  return rates


def contrast(values: Sequence[Bool[np.ndarray, 'C _'] |
                              Float[np.ndarray, 'C _']],
             problems: Sequence[Int[np.ndarray, '_']],
             weights: Sequence[int | float] | Float[np.ndarray, 'C'], *,
             confidence: float = .95, resamples: int = 2000, seed: int = 0
             ) -> tuple[float, float, float]:
  """(value, low, high) of a weighted sum of the C rates, meaned over seeds.

  Weights 1 and -1 make a paired difference. The interval never collapses:
  see `unseen`. ValueError if the seeds, the hands and the weights do not fit.
  """
  weights = np.asarray(weights, float)
  if not values or [v.shape for v in values] != [
      (weights.size, p.size) for p in problems]:
    raise ValueError(
        'a contrast needs the same hands under every condition: got '
        f'{weights.size} weights, {[v.shape for v in values]} outcomes and '
        f'{[p.size for p in problems]} problems')
  draws = resample(values, problems, resamples=resamples, seed=seed) @ weights
  draws = draws + unseen(values, problems, weights, resamples=resamples)
  mean = float(np.mean([v.mean(axis=1) for v in values], axis=0) @ weights)
  low, high = quantiles(np.clip(
      draws, np.minimum(weights, 0).sum(), np.maximum(weights, 0).sum()),
      confidence)
  return mean, min(low, mean), max(high, mean)


def unseen(values: Sequence[Bool[np.ndarray, 'C _'] |
                            Float[np.ndarray, 'C _']],
           problems: Sequence[Int[np.ndarray, '_']],
           weights: Float[np.ndarray, 'C'], *,
           resamples: int = 2000) -> Float[np.ndarray, 'S']:
  """What problems that were not met add to the draws of a contrast.

  A bootstrap that saw no pair go apart draws none: its interval has no width,
  whatever n is. So every draw also holds two problems that were not measured,
  one that gains and one that loses, each drawn as often as any other (about
  Poisson(1) times). Two such cells are what makes an interval of paired
  rates honest near 0 (Bonett and Price 2012, J. Educ. Behav. Stat. 37:479);
  with nothing observed the 95 % interval is 0 -+ 3 / P: the rule of three.
  Their size is the root mean square over the problems that did change; where
  none did nothing is known about it, and a whole problem is taken.
  """
  changes, count = [], 0
  for members in _crossed(problems):
    total = 0.
    for i in members:
      sums, sizes = per_problem(values[i], problems[i])
      total = total + weights @ sums / (sizes.mean() * len(members))
    changes.append(total[np.abs(total) > 1e-9])
    count += total.size
  changed = np.concatenate(changes)
  whole = max(np.maximum(weights, 0).sum(), -np.minimum(weights, 0).sum())
  size = np.sqrt(np.mean(changed ** 2)) if changed.size else whole
  gained, lost = np.random.default_rng((1, 0)).poisson(size=(2, resamples))
  return size / count * (gained - lost)


def per_problem(values: Bool[np.ndarray, 'C H'] | Float[np.ndarray, 'C H'],
                problems: Int[np.ndarray, 'H']
                ) -> tuple[Float[np.ndarray, 'C P'], Float[np.ndarray, 'P']]:
  """The sum of each condition over each problem's hands, and their number."""
  order = np.argsort(problems, kind='stable')
  first = np.flatnonzero(np.diff(problems[order], prepend=np.nan))
  sizes = np.diff(first, append=order.size)
  return (np.add.reduceat(values[:, order].astype(float), first, axis=1),
          sizes.astype(float))


def _crossed(problems):
  """The seeds (by place) that met the same hands, group by group."""
  groups = {}
  for i, numbers in enumerate(problems):
    groups.setdefault(numbers.tobytes(), []).append(i)
  return list(groups.values())


@functools.lru_cache(maxsize=6)  # 16 MB each for 1024 problems
def _times(count: int, resamples: int, key: tuple[int, ...]
           ) -> Float[np.ndarray, 'S P']:
  """How often each of `count` problems comes in each draw of `count`."""
  return np.random.default_rng(key).multinomial(
      count, np.full(count, 1 / count), size=resamples).astype(float)
