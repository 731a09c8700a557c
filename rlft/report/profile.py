"""Figure: rotation along the spectrum, with its null and its floor.

Of single directions by their place in the spectrum, and of the leading
directions together by how many of them are taken.
"""
from typing import Any

import numpy as np

from rlft.report import statistics
from rlft.report.tables import Tables

BINS = 20  # equal shares of the directions, leading to trailing
LINES = {'': 'measured', '_null': 'null', '_floor': 'floor (rounding)'}


def figure(tables: Tables) -> dict[str, Any] | None:
  """Series {key, label, points {x, y, low, high}}; angles in degrees.

  `series` of single directions by place, `by_top` of the leading share x.
  A line whose array was not written is left out.
  """
  found = statistics.about(tables['spectra'], 'sft')
  shares = next((np.asarray(r['top'], float) for r in found if 'top' in r),
                None)
  rows = [r for r in found if {'cosine', 'cosine_null'} <= set(r)]
  single = _lines(rows, 'cosine', lambda layer: _binned(
      np.degrees(np.arccos(np.clip(np.abs(layer), 0, 1)))),
      (np.arange(BINS) + .5) / BINS, least=BINS)
  if not single:
    return None
  return {'title': 'Rotation along the spectrum '
                   f'({statistics.method(tables)})',
          'note': f'n = {single[0]["count"]} matrices (layers, modules, '
                  'seeds); bands: middle 80 % of the matrices. A direction in '
                  'a dense part of the spectrum turns under any update: '
                  'compare with the null (a random update of the same norm). '
                  'Floor: what rounding the weights does.',
          'series': single,
          'by_top': [] if shares is None else _lines(
              rows, 'angle_by_top', np.degrees, shares, least=shares.size)}


def _lines(rows, name, angles, xs, *, least):
  """One series per line of `name`; each layer of a row is one matrix."""
  series = []
  for ending, label in LINES.items():
    drawn = [angles(layer) for row in rows if f'{name}{ending}' in row
             for layer in np.asarray(row[f'{name}{ending}'])
             if layer.size >= least]
    if drawn:
      low, high = np.quantile(drawn, [.1, .9], axis=0)
      series.append({
          'key': ending, 'label': label, 'count': len(drawn), 'points': [
              {'x': float(x), 'y': float(y), 'low': float(a), 'high': float(b)}
              for x, y, a, b in zip(
                  xs, np.mean(drawn, axis=0), low, high, strict=True)]})
  return series


def _binned(values):
  """The mean of equal shares of the directions."""
  return [part.mean() for part in np.array_split(values, BINS)]
