"""Figure: every edit of the weights in the plane of ID and OOD success."""
from typing import Any

from rlft.report import curves, edits, statistics
from rlft.report.tables import Tables


def figure(tables: Tables) -> dict[str, Any] | None:
  """Groups of points (rows of `edits.compare`) with the interpolation path.

  `marks` are checkpoints that bound the plane: where the edits lead to and
  the OOD peak of SFT, as the SFT run measured them.
  """
  groups = []
  for name, rows in statistics.groups(tables['restoration']).items():
    found = edits.edits(rows)
    end = edits.base_end(found)
    groups.append({
        'name': name, 'points': edits.compare(rows),
        'label': ', '.join(dict.fromkeys(r['comparison'] for r in rows)),
        'path': edits.path(found), 'base': end.label if end else None,
        'marks': [] if end else _marks(tables, rows)})
  if not groups:
    return None
  points = [p for group in groups for p in group['points']]
  seeds = max(p['ood']['seeds'] for p in points)
  return {'title': 'Restoration: what each edit keeps of ID and regains of OOD',
          'note': f'{curves.count(points)}; bars: {curves.interval(tables)}; '
                  'differences: 95 % paired bootstrap intervals over '
                  f'{curves.drawn(seeds)}. Above the line beats plain '
                  'interpolation at equal ID. An edit is compared with the '
                  'line only where points of it have both more and less ID '
                  'than the edit in at least 97.5 % of the draws. Matched '
                  'controls go exactly as far as the edit (Frobenius).',
          'groups': groups}


def _marks(tables, rows):
  """The checkpoint that the edits lead to, where all seeds share its step."""
  names = {r['comparison'].split(' → ')[0] for r in rows}
  role, _, step = min(names).rpartition('@')
  if len(names) > 1 or role != 'sft' or not step.isdigit():
    return []
  return [{'label': 'base' if point['step'] == 0 else
           f'{statistics.method(tables)} {step}',
           'id': point['id'], 'ood': point['ood']}
          for point in statistics.curve(statistics.rows_of(tables, 'sft'))
          if point['step'] == int(step) and point['id'] and point['ood']]
