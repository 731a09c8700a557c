"""Figure: wall seconds by stage."""
from typing import Any

from rlft import ledger
from rlft.report import files
from rlft.report.tables import Tables


def figure(tables: Tables) -> dict[str, Any] | None:
  """Bars {name, role, seconds, phases} in the study's order."""
  bars = [{'name': s['name'], 'role': s['role'], 'seconds': s['seconds'],
           'phases': phases(tables, s['name'])}
          for s in tables['stages'] if s['seconds'] is not None]
  if not bars:
    return None
  total = sum(bar['seconds'] for bar in bars)
  return {'title': 'Wall seconds by stage',
          'note': f'n = {len(bars)} stages, measured once each, so no '
                  f'interval; {total:.0f} s in all, this page not counted.',
          'bars': bars}


def phases(tables: Tables, stage: str) -> list[dict[str, Any]]:
  """[{phase, seconds}] that a run's rows told of, the longest first.

  What came after its last row, an evaluation and a save, is in none.
  """
  spent = {}
  for row in tables['metrics']:
    for name, value in row.items() if row['stage'] == stage else ():
      phase = name.removesuffix(ledger.SUFFIX)
      if phase not in (name, 'wall') and files.number(value) is not None:
        spent[phase] = spent.get(phase, 0.0) + value
  return [{'phase': phase, 'seconds': seconds} for phase, seconds in sorted(
      spent.items(), key=lambda item: -item[1])]
