"""Figure: ID and OOD success over SFT steps, with RL branching off."""
from typing import Any

from rlft.report import statistics
from rlft.report.tables import RL, Tables

LABELS = {'id': 'ID', 'ood': 'OOD'}


def figure(tables: Tables) -> dict[str, Any] | None:
  """Series {key, label, points, seeds}, branches {key, from_step, points}."""
  rows = statistics.rows_of(tables, 'sft')
  points = statistics.curve(rows)
  if not points:
    return None
  branches = []
  for role in RL:
    for start in statistics.starts(tables, role):
      runs = statistics.rows_of(tables, role, start)
      origin = [p | {'step': 0} for p in points if p['step'] == start]
      curve = statistics.curve(runs)
      if not curve or curve[0]['step'] > 0:
        curve = origin + curve
      branches += [{'key': key, 'role': role, 'from_step': start,
                    'points': _points(curve, key, start)} for key in LABELS]
  each = [statistics.curve([r for r in rows if r['seed'] == seed])
          for seed in statistics.seeds(tables)]
  spread = '' if len(each) < 2 else '; thin lines: single seeds'
  word = statistics.method(tables)
  return {
      'title': f'Success over {word} steps, and RL from each start',
      'note': f'{count(points)}; bands and bars: {interval(tables)}{spread}. '
              'RL is drawn at start + update.',
      'peak': statistics.peak_step(rows),
      'series': [{
          'key': key, 'label': label, 'points': _points(points, key),
          'seeds': [_points(one, key) for one in each] * (len(each) > 1)}
          for key, label in LABELS.items()],
      'branches': [b for b in branches if len(b['points']) > 1]}


def drawn(seeds: int) -> str:
  """What a bootstrap draws again."""
  return 'problems and seeds' if seeds > 1 else 'problems'


def interval(tables: Tables) -> str:
  """Which interval the figures draw around a rate, in words."""
  rows = tables['evals'] or tables['restoration']
  if any(r.get('problems', r.get('ood_problems')) is None for r in rows):
    return 'Wilson 95 % intervals (every hand counts as independent)'
  seeds = len(statistics.seeds(tables))
  return f'95 % bootstrap intervals over {drawn(seeds)}'


def count(curve: list[dict], key: str = 'ood') -> str:
  """How many hands and problems a point stands on, in words."""
  splits = [p[key] for p in curve if p.get(key)]
  if not splits:
    return 'n not recorded'
  every = [p[name] for p in curve for name in ('id', 'ood') if p.get(name)]
  found = {s['problems'] for s in every} - {None}
  problems = f' ({_span(found)} problems)' if found else ''
  runs = _span({s['seeds'] for s in splits})
  return (f'n = {_span({s["n"] // s["seeds"] for s in splits})} hands'
          f'{problems} per point and seed, {runs} seed' + 's' * (runs != '1'))


def _span(values):
  return ' to '.join(str(n) for n in sorted({min(values), max(values)}))


def _points(curve, key, offset=0):
  return [{'x': offset + p['step'], 'step': p['step'], **p[key]}
          for p in curve if p[key]]
