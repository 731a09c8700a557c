"""Figure: ID and OOD success over SFT steps, with RL branching off."""
from typing import Any

from rlft.report import statistics
from rlft.report.tables import Tables

LABELS = {'id': 'ID', 'ood': 'OOD'}


def figure(tables: Tables) -> dict[str, Any] | None:
  """Series {key, label, points, seeds}, branches {key, from_step, points}."""
  rows = statistics.rows_of(tables, 'sft')
  points = statistics.curve(rows)
  if not points:
    return None
  branches = []
  for start in statistics.starts(tables):
    runs = statistics.rows_of(tables, 'rl', start)
    origin = [p | {'step': 0} for p in points if p['step'] == start]
    curve = statistics.curve(runs)
    if not curve or curve[0]['step'] > 0:
      curve = origin + curve
    for key in LABELS:
      branches.append({'key': key, 'from_step': start, 'points': _points(
          curve, key, start)})
  each = [statistics.curve([r for r in rows if r['seed'] == seed])
          for seed in statistics.seeds(tables)]
  spread = '' if len(each) < 2 else (
      ' pooled over seeds; thin lines: single seeds, whose spread the bands '
      'leave out')
  return {
      'title': 'Success over SFT steps, and RL from each start',
      'note': f'{count(points)}; bands and bars: Wilson 95 % intervals on '
              f'counts{spread}. RL is drawn at start + update.',
      'peak': statistics.peak_step(rows),
      'series': [{
          'key': key, 'label': label, 'points': _points(points, key),
          'seeds': [_points(one, key) for one in each] * (len(each) > 1)}
          for key, label in LABELS.items()],
      'branches': [b for b in branches if len(b['points']) > 1]}


def drawn(seeds: int) -> str:
  """What a bootstrap draws again."""
  return 'seeds and hands' if seeds > 1 else 'hands'


def count(curve: list[dict], key: str = 'ood') -> str:
  """How many hands a point stands on, in words."""
  splits = [p[key] for p in curve if p.get(key)]
  if not splits:
    return 'n not recorded'
  seeds = {s['seeds'] for s in splits}
  sizes = {s['n'] // s['seeds'] for s in splits}
  hands = ' to '.join(str(n) for n in sorted({min(sizes), max(sizes)}))
  runs = ' to '.join(str(n) for n in sorted({min(seeds), max(seeds)}))
  plural = '' if runs == '1' else 's'
  return f'n = {hands} hands per point and seed, {runs} seed{plural}'


def _points(curve, key, offset=0):
  return [{'x': offset + p['step'], 'step': p['step'], **p[key]}
          for p in curve if p[key]]
