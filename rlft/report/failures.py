"""Figure: how replies end over SFT steps (shares of the hands)."""
from typing import Any

from rlft.report import curves, statistics
from rlft.report.tables import Tables

OUTCOMES = {  # in the order they are stacked
    'correct': 'correct', 'lock_in': 'right under the ID rule (lock-in)',
    'wrong_number': 'wrong number', 'wrong_value': 'wrong value',
    'format': 'broken format'}
PANELS = {'ood': 'OOD', 'id': 'ID'}


def figure(tables: Tables) -> dict[str, Any] | None:
  """Panels {key, label, steps, shares: outcome -> one share per step}."""
  rows = statistics.rows_of(tables, 'sft')
  panels = []
  for key, label in PANELS.items():
    counts = {step: statistics.outcome_counts(rows, key, step)
              for step in sorted({r['step'] for r in rows})}
    counts = {step: c for step, c in counts.items() if sum(c.values()) > 0}
    if len(counts) > 1:
      panels.append({'key': key, 'label': label, 'steps': list(counts),
                     'shares': {name: [c.get(name, 0) / sum(c.values())
                                       for c in counts.values()]
                                for name in OUTCOMES}})
  if not panels:
    return None
  return {'title': f'How replies end over {statistics.method(tables)} steps',
          'note': f'{curves.count(statistics.curve(rows))}; shares of all '
                  'hands, pooled over seeds; no interval is drawn (at most '
                  'that of the success curves).',
          'outcomes': OUTCOMES, 'panels': panels}
