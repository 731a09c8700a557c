"""Which rows of the study's tables are meant, and their pooled rates."""
from collections.abc import Iterable, Sequence

import numpy as np

from rlft.ops import intervals
from rlft.report import pairs
from rlft.report.pairs import Solved
from rlft.report.tables import Tables


def seeds(tables: Tables) -> list[int]:
  """The seeds of the stages that were trained or edited."""
  return sorted({s['seed'] for s in tables['stages'] if s['reads'] and
                 s['role'] != 'base' and s['state'] != 'not run'})


def of_seed(tables: Tables, seed: int) -> Tables:
  """The same tables with the rows of one seed."""
  return {name: [r for r in rows if name in ('warnings', 'comparison') or
                 r['seed'] == seed] for name, rows in tables.items()}


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


def starts(tables: Tables, role: str = 'rl') -> list[int]:
  """The SFT steps that RL runs start from."""
  return sorted({r['from_step'] for r in tables['evals']
                 if r['role'] == role and r['from_step'] is not None})


def method(tables: Tables) -> str:
  """What the stages of role `sft` train with: SFT, or their objective."""
  names = dict.fromkeys(s.get('objective') or 'sft' for s in tables['stages']
                        if s['role'] == 'sft')
  return ' and '.join('SFT' if name == 'sft' else name for name in names
                      ) or 'SFT'


def split(rows: Iterable[dict]) -> dict | None:
  """The pooled rate of evaluations, one row per seed, with two intervals.

  `low` and `high` are Wilson's on the summed counts: every hand of every seed
  counts as independent. `cluster_low` and `cluster_high` are those of the
  bootstrap over `problems` (and seeds), None where problems or solved hands
  were not recorded.
  """
  rows = list(rows)
  if not rows:
    return None
  n = int(sum(row['n'] for row in rows))
  successes = sum(round(row['success'] * row['n']) for row in rows)
  low, high = intervals.wilson(successes, n)
  known = all(row.get('solved') is not None and
              row.get('problems') is not None for row in rows)
  clustered = pairs.contrast([{
      i: pairs.Hands(row['solved'], row['problems'])
      for i, row in enumerate(rows)}], [1]) if known else {}
  return {'n': n, 'success': successes / n, 'low': low, 'high': high,
          'seeds': len(rows), 'problems': clustered.get('problems'),
          'cluster_low': clustered.get('low'),
          'cluster_high': clustered.get('high')}


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
  wins, hands = {}, {}
  for row in rows:
    if row['eval'] == name:
      step = row['step']
      wins[step] = wins.get(step, 0) + round(row['success'] * row['n'])
      hands[step] = hands.get(step, 0) + row['n']
  return max(common_steps(rows, name), key=lambda s: wins[s] / hands[s],
             default=None)


def solved(rows: list[dict], name: str, step: int | None) -> Solved:
  """Which hands each seed solved in one evaluation."""
  return {r['seed']: pairs.Hands(r['solved'], r['problems']) for r in rows
          if r['eval'] == name and r['step'] == step and
          r['solved'] is not None}


def rl_end(tables: Tables, from_step: int, name: str,
           role: str = 'rl') -> Solved:
  """The hands solved after the whole RL budget (the last common step).

  None where a run has only measured its start.
  """
  rows = rows_of(tables, role, from_step)
  return solved(rows, name, max(common_steps(rows, name), default=0) or None)


def rl_start(tables: Tables, from_step: int, name: str,
             role: str = 'rl') -> Solved:
  """The hands solved by the checkpoint that RL starts from.

  The SFT run measured it; the RL run's own step 0 stands in if not.
  """
  return (solved(rows_of(tables, 'sft'), name, from_step) or
          solved(rows_of(tables, role, from_step), name, 0))


def sft_peak(tables: Tables) -> Solved:
  """The cross-fitted OOD peak of SFT (see `pairs.best_elsewhere`)."""
  rows = rows_of(tables, 'sft')
  return pairs.best_elsewhere({step: solved(rows, 'ood', step)
                         for step in common_steps(rows, 'ood')})


def outcome_counts(rows: list[dict], name: str, step: int) -> dict[str, float]:
  """How many hands ended in each outcome, summed over seeds."""
  counts = {}
  for row in rows:
    if row['eval'] == name and row['step'] == step:
      for outcome, share in (row.get('outcomes') or {}).items():
        counts[outcome] = counts.get(outcome, 0) + (share or 0) * row['n']
  return counts


def effective_counts(rows: list[dict], name: str,
                     step: int) -> dict[str, float]:
  """`outcome_counts` of as many independent hands as they are worth.

  How hands ended is not recorded hand by hand, so the design effect of their
  success stands for that of every outcome.
  """
  effect = pairs.design_effect(solved(rows, name, step))
  return {outcome: count / effect for outcome, count in
          outcome_counts(rows, name, step).items()}


def mean_over_rows(rows: Iterable[dict], key: str) -> float | None:
  """The mean of the finite values of one column, None if there are none."""
  values = [float(r[key]) for r in rows
            if isinstance(r.get(key), int | float)]
  values = [v for v in values if np.isfinite(v)]
  return float(np.mean(values)) if values else None


def excess(rows: list[dict], key: str, null: str) -> dict | None:
  """The mean of column `key` minus column `null` (see `pairs.mean`)."""
  gaps = [(r['seed'], f'{r["layer"]} {r["module"]}',
           float(r[key]) - float(r[null])) for r in rows
          if r.get(key) is not None and r.get(null) is not None]
  return pairs.mean([gap for gap in gaps if np.isfinite(gap[2])])
