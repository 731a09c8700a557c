"""Figure: rotation and value shift of every layer and module, with nulls."""
from typing import Any

import numpy as np

from rlft.report import statistics, summary
from rlft.report.tables import Tables

QUANTITIES = {  # name -> label, unit, scale, column, its null
    'angle': ('rotation of the leading 20 %', '°', 180 / np.pi,
              'angle_top_rad', 'angle_null_rad'),
    'values': ('relative change of singular values', '%', 100,
               'value_shift', 'value_shift_null'),
    'diagonal': ('diagonal energy of the update', '%', 100,
                 'energy_diagonal', 'energy_diagonal_null'),
    'rotated': ('rotated energy of the update', '%', 100,
                'energy_rotated', 'energy_rotated_null'),
    'outside': ('energy outside the old directions', '%', 100,
                'energy_outside', 'energy_outside_null')}


def figure(tables: Tables) -> dict[str, Any] | None:
  """Comparisons with grids layers x modules: measured, null and excess."""
  comparisons = []
  columns = {key for row in tables['rotation'] for key in row}
  quantities = {name: q for name, q in QUANTITIES.items()
                if set(q[3:]) <= columns}
  names = {group: ', '.join(dict.fromkeys(r['comparison'] for r in rows))
           for group, rows in statistics.groups(tables['rotation']).items()}
  for group, rows in summary.rotation(tables).items():
    comparisons.append({
        'label': names[group], 'seeds': max(r['seeds'] for r in rows),
        **grids(rows, quantities)})
  if not comparisons:
    return None
  seeds = max(c['seeds'] for c in comparisons)
  return {'title': 'What the update does to each weight matrix, and its null',
          'note': f'n = {seeds} seed{"s" * (seeds > 1)} per cell, meaned; '
                  'null: a random update of the same norm; floor: what '
                  f'rounding the weights to {rounded_to(tables)} does; no '
                  'interval is drawn per cell (claims 13 and 15 test over '
                  'cells).',
          'quantities': {name: {'label': q[0], 'unit': q[1]}
                         for name, q in quantities.items()},
          'comparisons': comparisons}


def rounded_to(tables: Tables) -> str:
  """The format whose rounding the floors are of."""
  bits = {row.get('floor_mantissa_bits') for row in tables['rotation']}
  names = {7: 'bfloat16', 10: 'float16', 23: 'float32'}
  return names.get(bits.pop(), 'the stored format') if len(bits) == 1 else (
      'the stored format')


def grids(
    rows: list[dict[str, Any]], quantities: dict[str, tuple],
) -> dict[str, Any]:
  """Layers, modules, and a grid of each quantity: measured, null, excess.

  And `floor`, where the rows have the column of the null's name that says so.
  """
  layers = sorted({r['layer'] for r in rows})
  modules = list(dict.fromkeys(r['module'] for r in rows))
  cell = {(r['layer'], r['module']): r for r in rows}
  found = {}
  for name, (_, _, scale, column, null) in quantities.items():
    measured, expected, floor = (
        [[_scaled(cell.get((layer, module), {}).get(key), scale)
          for module in modules] for layer in layers]
        for key in (column, null, null.replace('_null', '_floor')))
    found[name] = {'measured': measured, 'null': expected, 'excess': [
        [None if None in pair else pair[0] - pair[1]
         for pair in zip(*lines, strict=True)]
        for lines in zip(measured, expected, strict=True)]}
    if any(v is not None for line in floor for v in line):
      found[name]['floor'] = floor
  return {'layers': layers, 'modules': modules, 'grids': found}


def _scaled(value, scale):
  return None if value is None else value * scale
