"""Figure: rotation of single directions along the spectrum, with its null."""
from typing import Any

import numpy as np

from rlft.report import statistics
from rlft.report.tables import Tables

BINS = 20  # equal shares of the directions, leading to trailing


def figure(tables: Tables) -> dict[str, Any] | None:
  """Series {key, label, points {x, y, low, high}}; angles in degrees."""
  rows = [r for r in statistics.about(tables['spectra'], 'sft')
          if {'cosine', 'cosine_null'} <= set(r)]
  series, counts = [], 0
  for key, label in (('cosine', 'measured'), ('cosine_null', 'null')):
    curves = [_binned(np.degrees(np.arccos(np.clip(np.abs(layer), 0, 1))))
              for row in rows for layer in np.asarray(row[key])
              if layer.size >= BINS]
    if curves:
      counts = len(curves)
      low, high = np.quantile(curves, [.1, .9], axis=0)
      series.append({'key': key, 'label': label, 'points': [
          {'x': (i + .5) / BINS, 'y': float(y), 'low': float(a),
           'high': float(b)} for i, (y, a, b) in enumerate(
               zip(np.mean(curves, axis=0), low, high, strict=True))]})
  if not series:
    return None
  return {'title': 'Rotation of single directions along the spectrum (SFT)',
          'note': f'n = {counts} matrices (layers, modules, seeds); bands: '
                  'middle 80 % of the matrices. A direction in a dense part '
                  'of the spectrum turns under any update: compare with the '
                  'null.',
          'series': series}


def _binned(values):
  """The mean of equal shares of the directions."""
  return [part.mean() for part in np.array_split(values, BINS)]
