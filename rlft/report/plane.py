"""Figure: every edit of the weights in the plane of ID and OOD success."""
from typing import Any

from rlft.report import edits
from rlft.report.tables import Tables


def figure(tables: Tables) -> dict[str, Any] | None:
  """Points (the rows of `edits.compare`) and the interpolation path."""
  found = edits.edits(tables)
  rows = edits.compare(tables)
  if not rows:
    return None
  end = edits.base_end(found)
  sizes = sorted({r['ood']['n'] for r in rows})
  seeds = max(r['ood']['seeds'] for r in rows)
  hands = ' to '.join(str(n) for n in sorted({sizes[0], sizes[-1]}))
  return {'title': 'Restoration: what each edit keeps of ID and regains of OOD',
          'note': f'n = {hands} hands per point and split, {seeds} '
                  f'seed{"s" * (seeds > 1)}; bars: Wilson 95 % intervals on '
                  'pooled counts; differences: 95 % paired bootstrap '
                  'intervals over seeds and hands. Above the line beats '
                  'plain interpolation at equal ID.',
          'points': rows, 'path': edits.path(found),
          'base': end.label if end else None}
