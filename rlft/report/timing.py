"""Figure: wall seconds by stage."""
from typing import Any

from rlft.report.tables import Tables


def figure(tables: Tables) -> dict[str, Any] | None:
  """Bars {name, role, seconds} in the study's order."""
  bars = [{'name': s['name'], 'role': s['role'], 'seconds': s['seconds']}
          for s in tables['stages'] if s['seconds'] is not None]
  if not bars:
    return None
  total = sum(bar['seconds'] for bar in bars)
  return {'title': 'Wall seconds by stage',
          'note': f'n = {len(bars)} stages, measured once each, so no '
                  f'interval; {total:.0f} s in all, this page not counted.',
          'bars': bars}
