"""Compares two checkpoints matrix by matrix, with memory for one at a time.

Both are read once to the end before anything is computed or written: hashes of
all files and tensors, and a look for NaN. What was measured of a matrix is kept
in DIR/unfinished until all are there, so a comparison that was interrupted goes
on, as long as weights, settings and versions are the same.
"""
import math
import pathlib
import statistics
from typing import Any

import numpy as np

from rlft import checkpoints
from rlft.analyses import rotation
from rlft.checkpoints import names, pairs
from rlft.comparison import job as jobs
from rlft.comparison import kept
from rlft.comparison.job import Job, Part
from rlft.spectral import nulls, svd
from rlft.training import progress


def run(
    before: str, after: str, out: str | pathlib.Path | None = None, *,
    select: str | None = None, top: svd.Fraction = 0.2, draws: int = 4,
    seed: int = 0,
) -> dict[str, Any]:
  """Rows and curves of one comparison, kept in the directory `out` if given.

  The table is that of `analyses/rotation.py`, with the tensors compared, their
  sha256, the versions and warnings beside it; `expert` numbers the matrices of
  a stack of experts. With `out` it is in rotation.json, and 'curves' is left
  to rotation.npz: one array per module and curve, stacked in the order of the
  module's rows, NaN where a matrix has fewer directions than others. Raises
  ValueError for checkpoints that are not of one model, NaN, damaged files, or
  an `out` that holds something else; then nothing is written.
  """
  if draws < 1:
    raise ValueError(f'draws={draws}: give a number from 1')
  if not 0 < top <= 1:
    raise ValueError(f'top={top} is a share of the directions: above 0, to 1')
  nulls.check_seed(seed)
  folder = None if out is None else pathlib.Path(out)
  if folder is not None:
    kept.vacant(folder)
  one, other = checkpoints.open(before), checkpoints.open(after)
  pairs.same(one, other)
  chosen = names.select(one, select)
  settings = dict(
      select=names.default(one.kind) if select is None else select,
      top=top, draws=draws, seed=seed)
  places = names.places(one.tensors, chosen, one.kind)
  digests = tuple(jobs.digest(x, set(chosen)) for x in (one, other))
  job = Job(one, other, places, settings, digests)
  if folder is not None:
    return kept.run(job, folder)
  bar = progress.track(places, name='compare', total=len(places))
  return _gathered(job, [jobs.measure(job, place) for place in bar])


def _gathered(job: Job, parts: list[Part]) -> dict[str, Any]:
  """The table of all parts, with their curves."""
  found = jobs.table(job, [row for rows, _ in parts for row in rows])
  each = {}
  for place, (_, curves) in zip(job.places, parts, strict=True):
    for name, array in curves.items():
      each.setdefault(f'{place.module}/{name}', []).append(array)
  found['curves'] = {
      'top': np.asarray(rotation.FRACTIONS, np.float32),
      **{name: jobs.stacked(arrays) for name, arrays in each.items()}}
  return found


def told(table: dict[str, Any]) -> str:
  """Means over the matrices of each module, for the person who waits."""
  rows = table['rows']
  degrees = 180 / math.pi
  columns = (('angle_top_rad', degrees), ('angle_null_rad', degrees),
             ('value_shift', 100), ('value_shift_null', 100))
  modules = list(dict.fromkeys(row['module'] for row in rows))
  wide = max(len('module'), *map(len, modules))
  lines = [f'{"module":{wide}}  matrices  rotation, deg     null  '
           'value shift, %     null']
  for module in modules:
    some = [row for row in rows if row['module'] == module]
    a, b, c, d = (scale * statistics.fmean(row[key] for row in some)
                  for key, scale in columns)
    lines.append(f'{module:{wide}}  {len(some):8d}  {a:13.3f}  {b:7.3f}  '
                 f'{c:14.3f}  {d:7.3f}')
  return '\n'.join(lines)
