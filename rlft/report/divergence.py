"""Figure: KL over steps, and OOD success against it.

The exact KL to the base that evaluations measure on their own hands is used
where there is one; else the KL to the run's reference that training logged.
"""
from typing import Any

import numpy as np

from rlft.report import curves, statistics
from rlft.report.tables import RL, Tables

KEEP = 200  # points of a line on the page
SOURCES = {  # column -> what it is
    'kl_to_base': 'KL(policy || base) on the policy\'s own replies to the ID '
                  'hands',
    'kl': 'KL(policy || reference) on the training batches'}


def figure(tables: Tables) -> dict[str, Any] | None:
  """Lines {role, from_step, points {x, step, kl}, against {kl, step, ...}}.

  `fixed` of an evaluated step is the KL on the oracle's completions: the same
  text for every run, where its own replies are others.
  """
  measured = any(r.get('kl_to_base') is not None for r in tables['evals'])
  column = 'kl_to_base' if measured else 'kl'
  lines = [_line(tables, 'sft', None, column)]
  lines += [_line(tables, role, start, column) for role in RL
            for start in statistics.starts(tables, role)]
  lines = [line for line in lines if line['points']]
  if not lines:
    return None
  sft = statistics.curve(statistics.rows_of(tables, 'sft'))
  return {'title': f'{SOURCES[column].split(" on ")[0]}, and OOD success '
                   'against it',
          'note': f'{curves.count(sft)} for OOD success; bars: '
                  f'{curves.interval(tables)}. {SOURCES[column]}, in nats '
                  'per token, meaned over seeds; it has no interval.',
          'lines': lines}


def _line(tables, role, start, column):
  """One run's KL by step (mean over seeds) and its evaluations by KL."""
  rows = statistics.rows_of(tables, role, start)
  logged = tables['metrics'] if column == 'kl' else [
      r for r in rows if r['eval'] == 'id']
  by_step = {}
  for row in logged:
    kl = row.get(column)
    if (row['role'] == role and row['from_step'] == start and
        row.get('step') is not None and isinstance(kl, int | float) and
        np.isfinite(kl)):
      by_step.setdefault(int(row['step']), []).append(kl)
  steps = sorted(by_step)
  kl = {step: float(np.mean(by_step[step])) for step in steps}
  fixed = {step: statistics.mean_over_rows(
      [r for r in rows if r['eval'] == 'id' and r['step'] == step],
      'kl_to_base_fixed') for step in {r['step'] for r in rows}}
  kept = np.unique(np.linspace(0, len(steps) - 1, min(
      KEEP, len(steps))).astype(int))
  against = []
  for point in statistics.curve(rows):
    before = [step for step in steps if step <= point['step']]
    # SFT starts at its reference, so its KL is 0 before anything is logged.
    near = kl[before[-1]] if before else (
        0. if role == 'sft' and point['step'] == 0 else None)
    if point['ood'] and near is not None and steps:
      against.append({'kl': near, 'fixed': fixed[point['step']],
                      'step': point['step'], **point['ood']})
  return {'role': role, 'from_step': start,
          'points': [{'x': steps[i] + (start or 0), 'step': steps[i],
                      'kl': kl[steps[i]]} for i in kept],
          'against': against}
