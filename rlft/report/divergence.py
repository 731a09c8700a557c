"""Figure: KL to the reference over steps, and OOD success against it."""
from typing import Any

import numpy as np

from rlft.report import curves, statistics
from rlft.report.tables import Tables

KEEP = 200  # points of a line on the page


def figure(tables: Tables) -> dict[str, Any] | None:
  """Lines {role, from_step, points {x, step, kl}, against {kl, y, ...}}."""
  lines = [_line(tables, 'sft', None)]
  lines += [_line(tables, 'rl', s) for s in statistics.starts(tables)]
  lines = [line for line in lines if line['points']]
  if not lines:
    return None
  sft = statistics.curve(statistics.rows_of(tables, 'sft'))
  return {'title': 'KL(policy || reference), and OOD success against it',
          'note': f'{curves.count(sft)} for OOD success; bars: Wilson 95 % '
                  'intervals. KL in nats per completion token on the '
                  'training batches, meaned over seeds; it has no interval.',
          'lines': lines}


def _line(tables, role, start):
  """One run's KL by step (mean over seeds) and its evaluations by KL."""
  by_step = {}
  for row in tables['metrics']:
    kl = row.get('kl')
    if (row['role'] == role and row['from_step'] == start and
        row.get('step') is not None and isinstance(kl, int | float) and
        np.isfinite(kl)):
      by_step.setdefault(row['step'], []).append(kl)
  steps = np.array(sorted(by_step), int)
  kl = np.array([np.mean(by_step[s]) for s in steps])
  kept = np.unique(np.linspace(0, steps.size - 1, KEEP).astype(int)) if (
      steps.size > KEEP) else np.arange(steps.size)
  against = []
  for point in statistics.curve(statistics.rows_of(tables, role, start)):
    before = np.searchsorted(steps, point['step'], side='right') - 1
    # SFT starts at its reference, so its KL is 0 before anything is logged.
    near = float(kl[before]) if before >= 0 else (
        0. if role == 'sft' and point['step'] == 0 else None)
    if point['ood'] and near is not None:
      against.append({'kl': near, 'step': point['step'], **point['ood']})
  return {'role': role, 'from_step': start,
          'points': [{'x': int(steps[i]) + (start or 0),
                      'step': int(steps[i]), 'kl': float(kl[i])}
                     for i in kept],
          'against': against}
