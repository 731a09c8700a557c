"""Figure: a few completions of every stage and step, as the policy wrote them.
"""
from typing import Any

import numpy as np

from rlft.report.tables import Tables

ROWS = 12  # of one evaluation at one step
STEPS = 8  # of one stage
LENGTH = 1200  # characters of a text


def figure(tables: Tables) -> dict[str, Any] | None:
  """Groups {stage, step, rows {eval, prompt, completion, reward, outcome}}."""
  groups = {}
  for row in tables['samples']:
    groups.setdefault(row['stage'], {}).setdefault(row['step'], []).append(row)
  shown = []
  for stage, by_step in groups.items():
    steps = sorted(by_step)
    kept = np.unique(np.linspace(0, len(steps) - 1, STEPS).round().astype(int))
    shown += [{'stage': stage, 'step': steps[i],
               'rows': _first(by_step[steps[i]])} for i in kept]
  if not shown:
    return None
  return {'title': 'Sample completions',
          'note': f'the first {ROWS} of each evaluation at up to {STEPS} '
                  'steps of a stage; single replies, so no interval.',
          'groups': shown}


def _first(rows):
  counts, kept = {}, []
  for row in rows:
    name = row.get('eval')
    counts[name] = counts.get(name, 0) + 1
    if counts[name] <= ROWS:
      kept.append({key: _cut(row.get(key)) for key in (
          'eval', 'prompt', 'completion', 'reward', 'outcome')})
  return kept


def _cut(value):
  if isinstance(value, int | float | None):
    return value
  text = str(value)
  return text if len(text) <= LENGTH else text[:LENGTH] + ' …'
