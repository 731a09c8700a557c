"""Pooled rates and paired differences of the study's tables.

`Solved` is one condition: seed -> which of the fixed hands it solved. All
differences are paired: the same seed and the same hand on both sides. Where
conditions were not measured on the same hands there is no difference, not an
unpaired one.
"""
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from rlft.ops import intervals
from rlft.report.tables import Tables

Solved = dict[int, Any]


def seeds(tables: Tables) -> list[int]:
  """The seeds of the stages that train or edit."""
  return sorted({s['seed'] for s in tables['stages']
                 if s['reads'] and s['role'] != 'base'})


def of_seed(tables: Tables, seed: int) -> Tables:
  """The same tables with the rows of one seed."""
  return {name: [r for r in rows if name == 'warnings' or r['seed'] == seed]
          for name, rows in tables.items()}


def rows_of(tables: Tables, role: str,
            from_step: int | None = None) -> list[dict]:
  """Evaluations of one role, of one start if it is given."""
  return [r for r in tables['evals'] if r['role'] == role and
          (from_step is None or r['from_step'] == from_step)]


def groups(rows: list[dict]) -> dict[str, list[dict]]:
  """Rows of an analysis by what they are about; the change of SFT first.

  A stage's role names its group: rotation, rotation_rl, restoration_peak, ...
  """
  found = {}
  for row in sorted(rows, key=lambda r: r['target'] != 'sft'):
    plain = row['role'] in ('rotation', 'restoration')
    also = f' ({row["target"]})' if plain and row['target'] != 'sft' else ''
    found.setdefault(row['role'] + also, []).append(row)
  return found


def about(rows: list[dict], target: str) -> list[dict]:
  """The first group of an analysis about checkpoints of one role."""
  return next((group for group in groups(rows).values()
               if group[0]['target'] == target), [])


def starts(tables: Tables) -> list[int]:
  """The SFT steps that RL runs start from."""
  return sorted({r['from_step'] for r in tables['evals']
                 if r['role'] == 'rl' and r['from_step'] is not None})


def split(rows: Iterable[dict]) -> dict | None:
  """The pooled rate of evaluations: counts summed, Wilson interval."""
  rows = list(rows)
  if not rows:
    return None
  n = int(sum(row['n'] for row in rows))
  successes = sum(round(row['success'] * row['n']) for row in rows)
  low, high = intervals.wilson(successes, n)
  return {'n': n, 'success': successes / n, 'low': low, 'high': high,
          'seeds': len(rows)}


def curve(rows: list[dict],
          names: Sequence[str] = ('id', 'ood')) -> list[dict]:
  """The pooled rate by step, one split for each named evaluation."""
  by_step = {}
  for row in rows:
    if row['eval'] in names:
      by_step.setdefault(row['step'], {}).setdefault(
          row['eval'], []).append(row)
  return [{'step': step} | {
      name: split(by_step[step].get(name, [])) for name in names}
      for step in sorted(by_step)]


def common_steps(rows: list[dict], name: str) -> list[int]:
  """The steps at which every seed of these rows was evaluated."""
  by_seed = {}
  for row in rows:
    if row['eval'] == name:
      by_seed.setdefault(row['seed'], set()).add(row['step'])
  return sorted(set.intersection(*by_seed.values())) if by_seed else []


def peak_step(rows: list[dict], name: str = 'ood') -> int | None:
  """The first step with the best pooled rate, of those all seeds have."""
  steps = common_steps(rows, name)
  points = {p['step']: p[name] for p in curve(rows, (name,))}
  return max(steps, key=lambda s: points[s]['success'], default=None)


def solved(rows: list[dict], name: str, step: int | None) -> Solved:
  """Which hands each seed solved in one evaluation."""
  return {r['seed']: r['solved'] for r in rows
          if r['eval'] == name and r['step'] == step and
          r['solved'] is not None}


def rl_end(tables: Tables, from_step: int, name: str) -> Solved:
  """The hands solved after the whole RL budget (the last common step)."""
  rows = rows_of(tables, 'rl', from_step)
  return solved(rows, name, max(common_steps(rows, name), default=None))


def rl_start(tables: Tables, from_step: int, name: str) -> Solved:
  """The hands solved by the checkpoint that RL starts from.

  The SFT run measured it; the RL run's own step 0 stands in if not.
  """
  return (solved(rows_of(tables, 'sft'), name, from_step) or
          solved(rows_of(tables, 'rl', from_step), name, 0))


def paired(conditions: Sequence[Solved]
           ) -> tuple[list[int], list[Bool[np.ndarray, 'C _']]]:
  """The seeds that every condition has on the same hands, and those hands."""
  shared = [s for s in sorted(set.intersection(*map(set, conditions)))
            if len({c[s].size for c in conditions}) == 1]
  return shared, [np.stack([c[s] for c in conditions]) for s in shared]


def contrast(conditions: Sequence[Solved], weights: Sequence[int | float], *,
             confidence: float = .95) -> dict | None:
  """{mean, low, high, seeds, n} of a weighted sum of rates; n counts hands.

  The interval is a hierarchical bootstrap over seeds and hands (over hands
  with one seed). None if the conditions share no seed and hands.
  """
  shared, bits = paired(conditions)
  if not shared:
    return None
  weights = np.asarray(weights, float)
  low, high = intervals.quantiles(
      intervals.resample(bits) @ weights, confidence)
  mean = np.mean([b.mean(axis=1) for b in bits], axis=0) @ weights
  return {'mean': float(mean), 'low': low, 'high': high,
          'seeds': len(shared), 'n': int(sum(b.shape[1] for b in bits))}


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
  shared, bits = paired(conditions)
  if not shared:
    return None
  above, below = np.asarray(above, float), np.asarray(below, float)
  draws = intervals.resample(bits)
  means = np.mean([b.mean(axis=1) for b in bits], axis=0)
  positive = draws @ below > 0
  if means @ below <= 0 or positive.mean() < .975:
    return None
  low, high = intervals.quantiles(
      (draws @ above)[positive] / (draws @ below)[positive])
  return {'mean': float(means @ above / (means @ below)), 'low': low,
          'high': high, 'seeds': len(shared),
          'n': int(sum(b.shape[1] for b in bits))}


def best_elsewhere(candidates: dict[int, Solved]) -> Solved:
  """Hands solved by the candidate that is best on the *other* half of them.

  The best of many looks better than it is on the hands that chose it. Here
  even hands are scored by the best candidate of the odd ones and the reverse,
  so the rate of the result is not flattered.
  """
  shared, bits = paired(list(candidates.values())) if candidates else ([], [])
  if not shared:
    return {}
  totals = [sum(b[:, half::2].sum(axis=1) for b in bits) for half in (0, 1)]
  result = {}
  for seed, rows in zip(shared, bits, strict=True):
    result[seed] = np.empty(rows.shape[1], bool)
    for half in (0, 1):
      chosen = int(np.argmax(totals[1 - half]))
      result[seed][half::2] = rows[chosen, half::2]
  return result


def sft_peak(tables: Tables) -> Solved:
  """The cross-fitted OOD peak of SFT (see `best_elsewhere`)."""
  rows = rows_of(tables, 'sft')
  return best_elsewhere({step: solved(rows, 'ood', step)
                         for step in common_steps(rows, 'ood')})


def outcome_counts(rows: list[dict], name: str, step: int) -> dict[str, float]:
  """How many hands ended in each outcome, summed over seeds."""
  counts = {}
  for row in rows:
    if row['eval'] == name and row['step'] == step:
      for outcome, share in (row.get('outcomes') or {}).items():
        counts[outcome] = counts.get(outcome, 0) + (share or 0) * row['n']
  return counts


def mean_over_rows(rows: Iterable[dict], key: str) -> float | None:
  """The mean of the finite values of one column, None if there are none."""
  values = [float(r[key]) for r in rows
            if isinstance(r.get(key), int | float)]
  values = [v for v in values if np.isfinite(v)]
  return float(np.mean(values)) if values else None


def excess(rows: list[dict], key: str, null: str) -> dict | None:
  """`contrast` of column `key` minus column `null`, over seeds and rows."""
  pairs = [(r['seed'], float(r[key]) - float(r[null])) for r in rows
           if r.get(key) is not None and r.get(null) is not None]
  return mean([pair for pair in pairs if np.isfinite(pair[1])])


def mean(pairs: Sequence[tuple[int, float]]) -> dict | None:
  """{mean, low, high, seeds, n} of (seed, value) pairs; n counts values."""
  groups = {}
  for seed, value in pairs:
    groups.setdefault(seed, []).append(value)
  if not groups:
    return None
  centre, low, high = intervals.mean_bootstrap(
      [np.array(values) for values in groups.values()])
  return {'mean': centre, 'low': low, 'high': high, 'seeds': len(groups),
          'n': len(pairs)}
