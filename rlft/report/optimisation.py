"""Table: what PPO logged about itself at the start and the end of every run.

A critic that explains nothing, or a start that leaves no reward to earn, is
seen here before anything is read into the success of a run.
"""
from typing import Any

import numpy as np

from rlft.report import statistics
from rlft.report.tables import RL, Tables

LAST = .25  # share of the updates that the end is meaned over
COLUMNS = {  # logged name -> what it is
    'explained_variance': 'explained variance of the critic',
    'reward': 'reward per episode', 'success': 'training hands solved, %',
    'kl_k1': 'KL to the start, nats per token',
    'zero_spread': 'groups all paid the same, %',
    'truncated': 'completions cut, %'}
PERCENT = ('success', 'zero_spread', 'truncated')
DIGITS = {'kl_k1': 4}


def runs(tables: Tables) -> list[dict[str, Any]]:
  """{role, from_step, seeds, updates, measures: name -> {first, last}}.

  `first` is the first update, `last` the mean over the last quarter of them;
  both are means over seeds.
  """
  return [_run(tables, role, start) for role in RL
          for start in statistics.starts(tables, role)]


def figure(tables: Tables) -> dict[str, Any] | None:
  """The rows of `runs` with the columns that were logged."""
  rows = [run for run in runs(tables) if run['measures']]
  if not rows:
    return None
  seeds = max(row['seeds'] for row in rows)
  return {'title': 'What PPO logged: first update → mean of the last quarter',
          'note': f'n = {seeds} run{"s" * (seeds > 1)} per row, meaned; '
                  'measured on the training rollouts (sampled, temperature '
                  'of training), no interval. Explained variance: 1 is a '
                  'critic that knows every return, 0 or less one that knows '
                  'no more than their mean. KL: k1 estimate on the rollouts.',
          'columns': [{'key': key, 'label': label, 'percent': key in PERCENT,
                       'digits': DIGITS.get(key, 2)}
                      for key, label in COLUMNS.items()
                      if any(key in row['measures'] for row in rows)],
          'rows': rows}


def _run(tables, role, start):
  """The first and last values of one start, meaned over its seeds."""
  logged = {}
  for row in tables['metrics']:
    if row['role'] == role and row['from_step'] == start and isinstance(
        row.get('step'), int):
      logged.setdefault(row['seed'], {})[row['step']] = row
  measures = {}
  for name in COLUMNS:
    ends = []
    for by_step in logged.values():
      values = [float(by_step[step][name]) for step in sorted(by_step)
                if isinstance(by_step[step].get(name), int | float)
                and np.isfinite(by_step[step][name])]
      if values:
        late = values[-max(1, round(LAST * len(values))):]
        ends.append((values[0], np.mean(late)))
    if ends:
      first, last = np.mean(ends, axis=0)
      measures[name] = {'first': float(first), 'last': float(last)}
  return {'role': role, 'from_step': start, 'seeds': len(logged),
          'updates': max((max(rows) for rows in logged.values()), default=0),
          'measures': measures}
