"""compare.html: a finished comparison of two checkpoints as one page.

Figures are pure functions of the rows and curves that `rlft compare` wrote.
Curves are thinned for the page; rotation.npz has every point.
"""
import json
import pathlib
import zipfile
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from rlft.report import heatmap, page

TEMPLATE = pathlib.Path(__file__).with_name('compare.html')
POINTS = 160  # of a curve, at most
BUDGET = 1_500_000  # numbers of all curves together, about
CURVES = {  # of the npz -> how the page wants them
    'values_before': lambda x: x, 'values_after': lambda x: x,
    'value_shift': lambda x: 100 * x, 'value_shift_null': lambda x: 100 * x,
    'angles': np.degrees, 'angles_null': np.degrees,
    'cosine': lambda x: np.degrees(np.arccos(np.clip(np.abs(x), 0, 1))),
    'cosine_null': lambda x: np.degrees(np.arccos(np.clip(np.abs(x), 0, 1)))}
SHARES = ('energy_diagonal', 'energy_rotated', 'energy_outside')


def write(folder: pathlib.Path) -> pathlib.Path:
  """Writes compare.html beside rotation.json and rotation.npz; its path."""
  table = json.loads((folder / 'rotation.json').read_text())
  path = folder / 'compare.html'
  curves = folder / 'rotation.npz'
  if not _sound(curves):
    raise ValueError(
        f'{curves} is damaged or not there: delete {folder}, or choose '
        'another --out')
  with np.load(curves, allow_pickle=False) as arrays:
    text = page.render(data(table, arrays), TEMPLATE)
  partial = path.with_name(f'.{path.name}.tmp')
  partial.write_text(text, encoding='utf-8')
  partial.replace(path)
  return path


def _sound(file: pathlib.Path) -> bool:
  """Whether every array of the file can be read."""
  try:
    with zipfile.ZipFile(file) as archive:
      return archive.testzip() is None
  except (OSError, zipfile.BadZipFile):
    return False


def data(table: dict[str, Any], arrays: Any) -> dict[str, Any]:
  """Everything the page shows, JSON-able."""
  rows = table['rows']
  count = f'{len(rows)} matri{"x" if len(rows) == 1 else "ces"}'
  return {
      'title': f'{_short(table["before"])} → {_short(table["after"])}',
      'size': count, 'before': table['before'], 'after': table['after'],
      'null': table['null'], 'warnings': table['warnings'],
      'figures': {
          'heatmap': _heatmap(table), 'energy': _energy(rows),
          'spectra': _spectra(table, arrays), 'table': _table(
              rows, table['draws'])},
      'settings': table['settings'], 'versions': table['versions'],
      'files': {role: found['files'] or found['tensors']
                for role, found in table['inputs'].items()}}


def _short(name: str) -> str:
  """The last two words of a path: enough to tell checkpoints apart."""
  return '/'.join(pathlib.PurePath(name).parts[-2:])


def cells(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """One row per layer and module: experts are meaned."""
  groups = {}
  for row in rows:
    groups.setdefault((row['layer'], row['module']), []).append(row)
  return [{**group[0], **{key: _mean([row[key] for row in group])
                          for key, value in group[0].items()
                          if isinstance(value, float)}}
          for group in groups.values()]


def _mean(values: list[float | None]) -> float | None:
  """Over those that there are: a number may be undefined for a matrix."""
  there = [value for value in values if value is not None]
  return float(np.mean(there)) if there else None


def _heatmap(table: dict[str, Any]) -> dict[str, Any]:
  rows, share = cells(table['rows']), f'{100 * table["top"]:g} %'
  angle, values = heatmap.QUANTITIES['angle'], heatmap.QUANTITIES['values']
  quantities = {
      'angle': (f'rotation of the leading {share}', *angle[1:]),
      'values': (f'change of the leading {share} of values', *values[1:]),
      'energy': ('share of the update that rescales old directions', '%', 100,
                 'energy_diagonal', 'energy_diagonal_null')}
  experts = max((r.get('expert', 0) for r in table['rows']), default=0)
  return {
      'title': 'What the update does to each weight matrix, and its null',
      'note': ('cells are means over experts; ' if experts else '')
              + 'press a cell to see its spectrum below.',
      'quantities': {k: {'label': q[0], 'unit': q[1]}
                     for k, q in quantities.items()},
      'comparisons': [{'label': '', **heatmap.grids(rows, quantities)}]}


def _energy(rows: list[dict[str, Any]]) -> dict[str, Any]:
  """Shares of the update's energy by module, its size by layer."""
  modules = list(dict.fromkeys(r['module'] for r in rows))
  bars, lines = [], []
  for module in modules:
    some = [r for r in cells(rows) if r['module'] == module]
    mean = lambda key, some=some: float(np.mean([r[key] for r in some]))
    bars.append({'module': module, 'null': mean('energy_diagonal_null'),
                 'shares': [mean(key) for key in SHARES]})
    lines.append({'module': module, 'points': [
        {'x': r['layer'], 'y': r['update_norm'] / r['weight_norm']}
        for r in some if r['weight_norm'] > 0]})
  return {
      'title': "The update's energy, and its size",
      'note': 'left: shares of the squared norm of the update in the old '
              'singular basis, means over layers; the tick is the diagonal '
              'share of the null. Right: norm of the update over norm of the '
              'weights (Frobenius).',
      'bars': bars, 'lines': lines}


def _spectra(table: dict[str, Any], arrays: Any) -> dict[str, Any]:
  """Thinned curves of every matrix, in the order of its module's rows."""
  rows = table['rows']
  share = max(16, min(POINTS, BUDGET // (len(CURVES) * max(len(rows), 1))))
  found = []
  for module in dict.fromkeys(r['module'] for r in rows):
    some = [r for r in rows if r['module'] == module]
    whole = {name: change(np.asarray(arrays[f'{module}/{name}'], np.float64))
             for name, change in CURVES.items()}
    for i, row in enumerate(some):
      lines = {}
      for name, curve in whole.items():
        line = curve[i][np.isfinite(curve[i])]
        at = thinned(line.size, share)
        lines[name] = {'at': (at + 1).tolist(), 'y': _rounded(line[at])}
      found.append({'layer': row['layer'], 'module': module,
                    'expert': row.get('expert'), 'lines': lines})
  return {
      'title': 'One matrix: its spectrum, and angle against index',
      'note': f'at most {share} points of a curve are drawn; rotation.npz has '
              'all. A single direction in a dense part of the spectrum turns '
              'under any update: compare with the null, and with the angles of '
              'the subspace.',
      'top': table['top'], 'matrices': found}


def thinned(size: int, most: int) -> Int[np.ndarray, 'P']:
  """At most about `most` indices: the first sixteen, then ever sparser."""
  if size <= most:
    return np.arange(size)
  return np.unique(np.concatenate([
      np.arange(min(16, most)), np.linspace(0, size - 1, most).round()
  ]).astype(int))


def _rounded(values: Float[np.ndarray, 'P']) -> list[float]:
  return [float(f'{x:.4g}') for x in values]


def _table(rows: list[dict[str, Any]], draws: int) -> dict[str, Any]:
  columns = list(dict.fromkeys(key for row in rows for key in row))
  first = [c for c in ('layer', 'module', 'expert') if c in columns]
  columns = [*first, *(c for c in columns if c not in (*first, 'tensor'))]
  return {'title': 'Every matrix', 'columns': columns,
          'note': 'angles in radians, energies as shares, norms Frobenius; '
                  'angles, cosines and overlaps are of the side, input or '
                  'output, that turned more. Press a heading to sort. Grey: '
                  'does not exceed every draw of its null, and its floor; a '
                  f'random update does so in one of {draws + 1} matrices.',
          'rows': [[_short_number(row.get(c)) for c in columns]
                   for row in rows]}


def _short_number(value: Any) -> Any:
  return float(f'{value:.6g}') if isinstance(value, float) else value
