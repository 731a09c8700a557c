"""Table and figure: the arms of a controlled comparison, where they match.

`rlft/arms.py` says what an arm is and what may differ. An arm that was matched
by updates, tokens or FLOPs is measured at its end. One that was matched by KL
or by ID success is measured, each of its runs, at the evaluated step that is
nearest to the level: the largest that all runs of all arms come to. An arm is
matched where none of its runs is further from the level, or from the mean of
the first arm, than the declared tolerance, as a share. Of a grid the report
takes the value with the most success on `chosen_by` at the end, pooled over
seeds (of equal ones the smallest), and says what the others had.
"""
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlft import differences, matchings, spent
from rlft.report import curves, files, pairs, provenance, statistics
from rlft.report.tables import Tables

UNITS = {'updates': 'updates', 'tokens': 'tokens', 'flops': 'FLOPs',
         'kl': 'KL to the base, nats a token', 'id_success': 'ID success'}


class Run(NamedTuple):
  """One run of an arm."""
  seed: int
  config: Mapping[str, Any]
  evals: dict[int, dict[str, dict]]  # step -> evaluation -> its row
  logged: list[dict]  # rows of metrics
  size: int | None = None  # parameters, where FLOPs are asked for


class Grid(NamedTuple):
  """An arm: its runs by the value of the tuned field, and which is taken."""
  arm: str
  runs: dict[Any, list[Run]]
  chosen: Any

  @property
  def taken(self) -> list[Run]:
    return self.runs[self.chosen]


def compared(tables: Tables) -> dict[str, Any] | None:
  """The declared comparison with its numbers; None if none was declared.

  `rows` has one for each arm that is finished, `missing` names the others.
  Without the first there is no `over`, and where runs are compared at their
  end `matched` is None.
  A row: {arm, chosen, grid, seeds, steps, quantity, ratio, matched, id, ood,
  over: {id, ood}, gain: {id, ood}, kl}; rates as `statistics.split`, `over`
  the first arm and `gain` since step 0 as `pairs.difference`.
  """
  section = next(iter(tables['comparison']), None)
  if section is None:
    return None
  found = _grids(tables, section)
  done = [grid for grid in found if grid.chosen is not _UNKNOWN]
  level = _level(section['matching'], done)
  first = next((grid for grid in done if grid.arm == section['arms'][0]), None)
  rows = [_row(section, grid, level, first) for grid in done]
  return {**section, 'unit': UNITS[section['matching']],
          'matched_by': matchings.MATCHING[section['matching']], 'level': level,
          'rows': rows, 'missing': [
              grid.arm for grid in found if grid.chosen is _UNKNOWN]}


def figure(tables: Tables) -> dict[str, Any] | None:
  """`compared` with a line for each arm: success over what was matched."""
  found = compared(tables)
  if found is None:
    return None
  over = found['matching'] if found['matching'] not in matchings.AT_LEVEL else (
      'updates')
  done = [grid for grid in _grids(tables, found)
          if grid.chosen is not _UNKNOWN]
  lines = [_line(over, grid) for grid in done]
  points = [p for line in lines for p in line['points']]
  seeds = max((row['seeds'] for row in found['rows']), default=0)
  return found | {
      'title': f'Controlled comparison: {found["treatment"]}, matched by '
               f'{found["matching"]}',
      'note': f'{curves.count(points, "id")}; intervals: '
              f'{curves.interval(tables)}; differences: 95 % paired bootstrap '
              f'intervals over {curves.drawn(seeds)}, of KL over seeds. '
              f'Arms are compared at equal {found["matching"]} '
              f'({found["matched_by"]}), matched within '
              f'{100 * found["tolerance"]:g} %.',
      'x': UNITS[over], 'lines': lines}


_UNKNOWN = object()  # the value of a grid that is not finished


def _grids(tables, section):
  """The arms in their order; what cannot be read counts as unfinished."""
  planned = {s['name']: s for s in tables['stages']}
  evals, logged, sizes = {}, {}, {}
  for row in tables['evals']:
    evals.setdefault(row['stage'], {}).setdefault(
        row['step'], {})[row['eval']] = row
  for row in tables['metrics']:
    logged.setdefault(row['stage'], []).append(row)
  found = []
  for arm in section['arms']:
    runs, whole = {}, True
    for name, stage in planned.items():
      if stage['role'] != arm or stage['reads'] != 'evals':
        continue
      config = stage['config']
      value = differences.fields(config).get(section['tuned'])
      value = tuple(value) if isinstance(value, list) else value
      whole &= stage['state'] == 'finished' and name in evals and (
          'objective' in config)
      model = str([config.get(key) for key in ('model', 'tokenizer', 'chat')])
      if section['matching'] == 'flops' and model not in sizes:
        sizes[model] = provenance.parameters(config)
      runs.setdefault(value, []).append(Run(
          stage['seed'], config, evals.get(name, {}), logged.get(name, []),
          sizes.get(model)))
    found.append(Grid(arm, runs, _choice(runs, section['chosen_by'])
                      if runs and whole else _UNKNOWN))
  return found


def _choice(runs, chosen_by):
  """The value with the most success on `chosen_by`; the smallest of ties."""
  if not chosen_by:
    return next(iter(runs))
  rates = {value: split['success'] for value, one in runs.items()
           if (split := _split(one, _ends(one), chosen_by))}
  return max(sorted(rates), key=rates.get) if len(rates) == len(runs) else (
      _UNKNOWN)


def _level(matching, done):
  """What all runs come to, None where they are compared at their end."""
  if matching not in matchings.AT_LEVEL:
    return None
  each = [max(_known(matching, run).values(), default=np.nan)
          for grid in done for run in grid.taken]
  return float(np.min(each)) if each else None


def _known(matching, run):
  """The quantity by evaluated step, where it was measured."""
  found = {s: _quantity(matching, run, s) for s in sorted(run.evals)}
  return {s: value for s, value in found.items() if np.isfinite(value)}


def _ends(runs):
  return [max(run.evals) for run in runs]


def _steps(matching, runs, level):
  """The evaluated step at which each run is compared."""
  if level is None:
    return _ends(runs)
  known = [_known(matching, run) for run in runs]
  return [min(each, key=lambda step, each=each: abs(each[step] - level),
              default=end)
          for each, end in zip(known, _ends(runs), strict=True)]


def _quantity(matching: str, run: Run, step: int) -> float:
  """What a run has spent, or become, at a step; NaN where it was not logged."""
  here = run.evals[step].get('id') or {}
  if matching in matchings.AT_LEVEL:
    key = 'kl_to_base' if matching == 'kl' else 'success'
    found = files.number(here.get(key))
    return np.nan if found is None else float(found)
  if matching == 'updates':
    return float(spent.updates(run.config, step))
  try:
    if matching == 'tokens':
      return spent.tokens(run.logged, step)
    flops = spent.flops(run.logged, step, run.config)
  except ValueError:
    return np.nan
  return np.nan if run.size is None else flops * run.size


def _row(section, grid, level, first):
  matching = section['matching']
  runs, steps = grid.taken, _steps(matching, grid.taken, level)
  theirs = ([], []) if first is None else (
      first.taken, _steps(matching, first.taken, level))
  spend = _quantities(matching, runs, steps)
  goal = level if level is not None else np.nan if first is None else float(
      np.mean(_quantities(matching, *theirs)))
  share = spend / goal if goal else np.where(spend == goal, 1., np.inf)
  names = [n for n in matchings.REPORTED if _rows(runs, steps, n)]
  gap = lambda before, at: {n: pairs.difference(
      _solved(runs, steps, n), _solved(before, at, n)) for n in names}
  return {
      'arm': grid.arm,
      'chosen': grid.chosen if section['tuned'] else None,
      'grid': [{'value': value, 'success': _split(
          one, _ends(one), section['chosen_by'])}
          for value, one in sorted(grid.runs.items())] if (
              section['tuned']) else [],
      'seeds': len(runs), 'steps': steps, 'quantity': float(spend.mean()),
      'ratio': float(share.mean()),
      'matched': None if level is None and first is None else bool(
          (np.abs(share - 1) <= section['tolerance'] + 1e-9).all()),
      **{n: _split(runs, steps, n) for n in matchings.REPORTED},
      'over': gap(*theirs) if grid.arm != section['arms'][0] and first else {},
      'gain': gap(runs, [min(run.evals) for run in runs]),
      'kl': _kl(runs, steps)}


def _quantities(matching, runs, steps):
  return np.array([_quantity(matching, run, step)
                   for run, step in zip(runs, steps, strict=True)])


def _rows(runs, steps, name) -> list[dict]:
  """The rows of one evaluation, a step for each run."""
  found = [run.evals[step].get(name)
           for run, step in zip(runs, steps, strict=True)]
  return [row for row in found if row is not None]


def _split(runs: Sequence[Run], steps: Sequence[int], name: str):
  return statistics.split(_rows(runs, steps, name))


def _solved(runs, steps, name):
  return {row['seed']: pairs.Hands(row['solved'], row['problems'])
          for row in _rows(runs, steps, name) if row['solved'] is not None}


def _kl(runs, steps):
  """The mean over seeds; no interval of one seed, None if not measured."""
  each = [(row['seed'], 'kl', float(row['kl_to_base']))
          for row in _rows(runs, steps, 'id') if row.get('kl_to_base')
          is not None]
  found = pairs.mean(each)
  if found is not None and found['seeds'] == 1:
    found |= {'low': None, 'high': None}
  return found


def _line(over, grid):
  """{arm, points: [{x, step, id, ood}], seeds: a list of points for each}."""
  common = sorted(set.intersection(*(set(run.evals) for run in grid.taken)))
  def points(runs):
    at = {s: float(np.mean([_quantity(over, run, s) for run in runs]))
          for s in common}
    return [{'x': x, 'step': s, **{n: _split(runs, [s] * len(runs), n)
                                   for n in matchings.REPORTED}}
            for s, x in at.items() if np.isfinite(x)]
  return {'arm': grid.arm, 'points': points(grid.taken),
          'seeds': [points([run]) for run in grid.taken] if (
              len(grid.taken) > 1) else []}
