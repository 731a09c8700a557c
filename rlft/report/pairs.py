"""Differences of conditions that were measured on the same seeds and hands.

`Solved` is one condition: seed -> which of the fixed hands it solved, and
which hands are one problem. Where conditions were not measured on the same
hands there is no difference, not an unpaired one. Intervals draw problems
(and seeds), as rlft/ops/intervals.py says.
"""
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from rlft.ops import intervals


class Hands(NamedTuple):
  """The outcomes of one evaluation of one seed (or how likely each was)."""
  solved: Bool[np.ndarray, 'H'] | Float[np.ndarray, 'H']
  problems: Int[np.ndarray, 'H'] | None = None  # None: not recorded


Solved = dict[int, Hands]


class Shared(NamedTuple):
  """What several conditions have in common."""
  seeds: list[int]
  solved: list[Bool[np.ndarray, 'C H'] | Float[np.ndarray, 'C H']]  # by seed
  problems: list[Int[np.ndarray, 'H']]

  @property
  def means(self) -> Float[np.ndarray, 'C']:
    """The rate of each condition, meaned over seeds."""
    return np.mean([bits.mean(axis=1) for bits in self.solved], axis=0)

  @property
  def n(self) -> int:
    """Hands, summed over seeds."""
    return sum(bits.shape[1] for bits in self.solved)

  @property
  def count(self) -> int:
    """Problems; those that all seeds met count once."""
    each = {p.tobytes(): np.unique(p).size for p in self.problems}
    return sum(each.values())


def together(conditions: Sequence[Solved]) -> Shared | None:
  """The seeds that every condition has on the same hands, None without any.

  Problems that only some conditions recorded are those of all; where none
  did, every hand counts as a problem of its own.
  """
  seeds, solved, problems = [], [], []
  for seed in sorted(set.intersection(*map(set, conditions))):
    hands = [c[seed] for c in conditions]
    known = {h.problems.tobytes(): h.problems for h in hands
             if h.problems is not None}
    if len({h.solved.size for h in hands}) > 1 or len(known) > 1:
      continue
    seeds.append(seed)
    solved.append(np.stack([h.solved for h in hands]))
    problems.append(next(iter(known.values()), np.arange(
        hands[0].solved.size)))
  return Shared(seeds, solved, problems) if seeds else None


def contrast(conditions: Sequence[Solved], weights: Sequence[int | float], *,
             confidence: float = .95) -> dict | None:
  """{mean, low, high, seeds, n, problems} of a weighted sum of rates.

  n counts hands over all seeds. None if the conditions share no seed and
  hands.
  """
  shared = together(conditions)
  if shared is None:
    return None
  mark = _mark(*shared.solved, *shared.problems, np.array(
      [*weights, confidence], float))
  if mark not in _measured:
    _measured[mark] = intervals.contrast(
        shared.solved, shared.problems, weights, confidence=confidence)
  mean, low, high = _measured[mark]
  return {'mean': mean, 'low': low, 'high': high,
          'seeds': len(shared.seeds), 'n': shared.n, 'problems': shared.count}


# By what was measured: a page and its summary ask for most intervals twice.
_measured: dict[bytes, tuple[float, float, float]] = {}


def _mark(*arrays: np.ndarray) -> bytes:
  total = hashlib.sha256()
  for x in arrays:
    total.update(f'{x.dtype} {x.shape}'.encode() + x.tobytes())
  return total.digest()


def difference(after: Solved, before: Solved, *,
               confidence: float = .95) -> dict | None:
  """The paired difference of two conditions, as `contrast`."""
  return contrast([after, before], [1, -1], confidence=confidence)


def ratio(conditions: Sequence[Solved], above: Sequence[int | float],
          below: Sequence[int | float]) -> dict | None:
  """`contrast` of a ratio of two weighted sums of rates.

  None where there is nothing paired, or where the denominator is not above
  zero in at least 97.5 % of the draws: the ratio then has no interval.
  """
  shared = together(conditions)
  if shared is None:
    return None
  draws = intervals.resample(shared.solved, shared.problems)
  top, whole = (np.asarray(w, float) for w in (above, below))
  over, under = (
      draws @ w + intervals.unseen(shared.solved, shared.problems, w)
      for w in (top, whole))
  positive = under > 0
  if shared.means @ whole <= 0 or positive.mean() < .975:
    return None
  low, high = intervals.quantiles(over[positive] / under[positive])
  return {'mean': float(shared.means @ top / (shared.means @ whole)),
          'low': low, 'high': high, 'seeds': len(shared.seeds),
          'n': shared.n, 'problems': shared.count}


def best_elsewhere(candidates: dict[int, Solved]) -> Solved:
  """Hands solved by the candidate that is best on the *other* half of them.

  The best of many looks better than it is on the hands that chose it. Here
  even problems are scored by the best candidate of the odd ones and the
  reverse, so the rate of the result is not flattered.
  """
  shared = together(list(candidates.values())) if candidates else None
  if shared is None:
    return {}
  odd = [numbers % 2 == 1 for numbers in shared.problems]
  totals = [
      sum(bits[:, side == half].sum(axis=1)
          for bits, side in zip(shared.solved, odd, strict=True))
      for half in (False, True)]
  result = {}
  for seed, bits, side, numbers in zip(
      shared.seeds, shared.solved, odd, shared.problems, strict=True):
    chosen = np.empty(bits.shape[1], bool)
    for half in (False, True):
      best = int(np.argmax(totals[not half]))
      chosen[side == half] = bits[best, side == half]
    result[seed] = Hands(chosen, numbers)
  return result


def design_effect(condition: Solved) -> float:
  """How many hands count as one independent hand, at least 1.

  The bootstrap variance of the rate over its binomial variance (Kish 1965).
  Counts of the same hands divided by it give intervals that allow for their
  problems (Rao and Scott 1992, Biometrics 48:577). Where all hands ended
  alike it cannot be told, and the hands per problem stand for it.
  """
  shared = together([condition]) if condition else None
  if shared is None:
    return 1.
  rate = float(shared.means[0])
  if rate in (0, 1):
    return shared.n / shared.count
  draws = intervals.resample(shared.solved, shared.problems)
  return max(1., float(draws.var()) * shared.n / (rate * (1 - rate)))


def mean(values: Sequence[tuple[int, str, float]]) -> dict | None:
  """{mean, low, high, seeds, n} of (seed, unit, value); n counts values.

  A unit (a matrix, say) that several seeds measured is drawn for all of them
  at once, as problems are.
  """
  by_seed = {}
  for seed, unit, value in values:
    by_seed.setdefault(seed, []).append((unit, value))
  if not by_seed:
    return None
  units = sorted({unit for _, unit, _ in values})
  found = [sorted(pairs) for pairs in by_seed.values()]
  numbers = [np.array([units.index(unit) for unit, _ in pairs])
             for pairs in found]
  measured = [np.array([[value for _, value in pairs]]) for pairs in found]
  low, high = intervals.quantiles(
      intervals.resample(measured, numbers)[:, 0])
  return {'mean': float(np.mean([m.mean() for m in measured])), 'low': low,
          'high': high, 'seeds': len(by_seed), 'n': len(values)}
