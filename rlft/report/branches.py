"""Figure: what the whole RL budget changed, by the SFT step it started from."""
from typing import Any

from rlft.report import curves, pairs, statistics
from rlft.report.tables import RL, Tables


def figure(tables: Tables) -> dict[str, Any] | None:
  """Rows {role, from_step, label, id, ood}, each split {start, end, effect}.

  Runs with a KL term (`rl_kl`) stand under the runs without from their start.
  """
  rows = [_row(tables, role, start) for start, order, role in sorted(
      (start, order, role) for order, role in enumerate(RL)
      for start in statistics.starts(tables, role))]
  if not rows:
    return None
  seeds = len(statistics.seeds(tables))
  ends = [{'ood': row['ood']['end']} for row in rows]
  return {'title': f'RL from each {statistics.method(tables)} checkpoint: '
                   'start → end',
          'note': f'{curves.count([e for e in ends if e["ood"]])}; bars: '
                  f'{curves.interval(tables)}; changes in points with 95 % '
                  f'paired bootstrap intervals over {curves.drawn(seeds)}.',
          'rows': rows}


def _row(tables, role, start):
  """One start: its rates, those after the last update, and the change."""
  runs = statistics.rows_of(tables, role, start)
  name = 'base' if start == 0 else f'step {start}'
  row = {'role': role, 'from_step': start,
         'label': name if role == 'rl' else f'{name}, KL term'}
  for key in ('id', 'ood'):
    end = max(statistics.common_steps(runs, key), default=0) or None
    row[key] = {
        'start': statistics.split(
            r for r in _start_rows(tables, role, start, key)
            if r['seed'] in {run['seed'] for run in runs}),
        'end': statistics.split(
            r for r in runs if r['eval'] == key and r['step'] == end),
        'updates': end,
        'effect': pairs.difference(
            statistics.rl_end(tables, start, key, role),
            statistics.rl_start(tables, start, key, role))}
  return row


def _start_rows(tables, role, start, name):
  """The evaluations of the checkpoint that RL starts from."""
  sft = [r for r in statistics.rows_of(tables, 'sft')
         if r['eval'] == name and r['step'] == start]
  return sft or [r for r in statistics.rows_of(tables, role, start)
                 if r['eval'] == name and r['step'] == 0]
