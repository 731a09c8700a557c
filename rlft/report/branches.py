"""Figure: what the whole RL budget changed, by the SFT step it started from."""
from typing import Any

from rlft.report import curves, pairs, statistics
from rlft.report.tables import Tables


def figure(tables: Tables) -> dict[str, Any] | None:
  """Rows {from_step, id, ood}, each split {start, end, effect}."""
  rows = []
  ends = []
  for start in statistics.starts(tables):
    runs = statistics.rows_of(tables, 'rl', start)
    row = {'from_step': start}
    for name in ('id', 'ood'):
      end = max(statistics.common_steps(runs, name), default=None)
      last = statistics.split(
          r for r in runs if r['eval'] == name and r['step'] == end)
      first = statistics.split(
          r for r in _start_rows(tables, start, name)
          if r['seed'] in {run['seed'] for run in runs})
      row[name] = {'start': first, 'end': last, 'updates': end,
                   'effect': pairs.difference(
                       statistics.rl_end(tables, start, name),
                       statistics.rl_start(tables, start, name))}
      ends.append({name: last})
    rows.append(row)
  if not rows:
    return None
  seeds = len(statistics.seeds(tables))
  return {'title': 'RL from each SFT checkpoint: start → end',
          'note': f'{curves.count([e for e in ends if e.get("ood")])}; bars: '
                  'Wilson 95 % intervals; changes in points with 95 % paired '
                  f'bootstrap intervals over {curves.drawn(seeds)}.',
          'rows': rows}


def _start_rows(tables, start, name):
  """The evaluations of the checkpoint that RL starts from."""
  sft = [r for r in statistics.rows_of(tables, 'sft')
         if r['eval'] == name and r['step'] == start]
  return sft or [r for r in statistics.rows_of(tables, 'rl', start)
                 if r['eval'] == name and r['step'] == 0]
