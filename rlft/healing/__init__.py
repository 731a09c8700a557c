"""Writes a later checkpoint with its matrices edited towards an earlier one.

The edits are those of `analyses/restoration.py`, with memory for one matrix.
What is written is made in a temporary directory beside its place and renamed at
the end, so that there is either all of it or nothing.
"""
import functools
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from rlft import checkpoints
from rlft.checkpoints import names, pairs, rewrite, tensor
from rlft.checkpoints.names import Place
from rlft.checkpoints.tensor import DTYPES, Checkpoint
from rlft.comparison import job
from rlft.healing import matrix
from rlft.healing import plan as plans
from rlft.healing.plan import Plan
from rlft.training import progress

ROWS = 64  # at a time


def run(
    before: str, after: str, out: str | pathlib.Path, *,
    edit: str = 'vectors', select: str | None = None, seed: int = 0,
    dry_run: bool = False, **options: Any,
) -> dict[str, Any]:
  """Writes `out`, a checkpoint in the format of `after`; returns what it did.

  `edit` is a kind of `analyses/restoration.py` and `options` its keywords:
  top, tail, polar, amount, layers=(0, 0.25), modules=('q_proj',). Of a
  directory the same files with the same tensors in the same order and dtypes
  are written; of RUN_DIR@STEP a run directory that holds this one step, made
  in memory as a whole. heal.json tells what was done to each tensor, and what
  rounding to its dtype undid. Raises ValueError, leaving nothing, when the two
  are not of one model, when `out` is there already, or for an edit that makes
  no sense.
  """
  folder = pathlib.Path(out)
  rewrite.refuse(folder)
  one, other = checkpoints.open(before), checkpoints.open(after)
  pairs.same(one, other)
  plan = plans.make(one, other, {'kind': edit, **options}, select, seed)
  found = {
      'before': before, 'after': after, 'out': str(folder),
      'edit': {'kind': edit, **options}, 'seed': seed, 'dry_run': dry_run,
      'select': names.default(one.kind) if select is None else select,
      'versions': job.versions()}
  left_out = names.left_out(other, select)
  if left_out:
    progress.say(f'warning: {left_out}')
  if dry_run:
    return {**found, 'tensors': plans.listed(plan)}
  with rewrite.whole(folder) as temporary:
    rows = _written(plan, temporary)
    found |= {'tensors': rows, 'rounding': rounding(rows)}
    if rows and not found['rounding']['edit_norm']:
      progress.say('warning: this edit changes nothing: are before and after '
                   'the same?')
    (temporary / 'heal.json').write_text(json.dumps(found, indent=1) + '\n')
  return found


def _written(plan: Plan, folder: pathlib.Path) -> list[dict[str, Any]]:
  """Writes everything but heal.json; one row per edited tensor."""
  rows = {row['tensor']: row for row in plans.listed(plan)}
  bar = progress.track(
      range(len(rows)), name='heal', total=len(rows))
  next(bar, None)

  def changed(name: str) -> Iterator[Shaped[np.ndarray, '...']]:
    totals = []
    for place in plan.places[name]:
      stored, total = _edited(plan, place)
      totals.append(total)
      yield stored
      del stored
    rows[name] |= _measured(np.sum(totals, axis=0))
    next(bar, None)

  if plan.after.kind == 'directory':
    rewrite.directory(plan.after, folder, set(rows), changed)
  else:
    rewrite.run(plan.after.name, folder, {
        name: next(iter(list(changed(name)))) for name in rows})
  return list(rows.values())


def _edited(
    plan: Plan, place: Place,
) -> tuple[Shaped[np.ndarray, '...'], np.ndarray]:
  """The matrix as it is stored, and sums that `_measured` makes sense of."""
  path = place.name if place.index is None else f'{place.name}[{place.index}]'
  exact = _exact(plan, place, path)
  if not tensor.finite(exact):
    raise ValueError(
        f'the edit of {path} is not finite: a decomposition did not converge; '
        'leave it out with --select, or edit with another --top')
  dtype = plan.after.tensors[place.name].dtype
  with np.errstate(over='ignore'):
    stored = exact.astype(DTYPES[dtype])
  if not tensor.finite(stored):
    raise ValueError(
        f'the edit of {path} does not fit into {dtype}: save both checkpoints '
        'as F32 or BF16')
  sums = _sums(exact, stored, _load(plan.after, place))
  if tensor.output_first(plan.after.kind, place.name):
    stored = np.swapaxes(stored, -1, -2)
  return np.ascontiguousarray(stored), sums


def _exact(
    plan: Plan, place: Place, path: str,
) -> Float32[np.ndarray, '*L M N']:
  """The edited matrix before it is rounded to its dtype."""
  before, after = (functools.partial(_load, x, place)
                   for x in (plan.before, plan.after))
  shape = after().shape
  if np.array_equal(before(), after()):  # factoring would add roundings
    return after().astype(np.float32)
  stacked = lambda load: lambda: load().reshape(-1, *shape[-2:])
  return matrix.edited(
      stacked(before), stacked(after), plan.entry, path=path, seed=plan.seed,
      shape=(math.prod(shape[:-2]), *shape[-2:])).reshape(shape)


def _sums(
    exact: Float32[np.ndarray, '*L M N'], stored: Shaped[np.ndarray, '*L M N'],
    new: Shaped[np.ndarray, '*L M N'],
) -> np.ndarray:
  """What `_measured` makes sense of, from some rows at a time."""
  total = np.zeros(5)
  layers = (x.reshape(-1, *x.shape[-2:]) for x in (exact, stored, new))
  for own in zip(*layers, strict=True):
    for start in range(0, exact.shape[-2], ROWS):
      rows, kept, old = (x[start:start + ROWS] for x in own)
      wide, meant = old.astype(np.float32), rows != old.astype(np.float32)
      total += (
          _square(rows - wide), _square(kept.astype(np.float32) - rows),
          _square(wide), meant.sum(), (meant & (kept == old)).sum())
  return total


def _load(checkpoint: Checkpoint, place: Place) -> Shaped[np.ndarray, '...']:
  found = tensor.matrix(checkpoint, place.name, place.index)
  if not tensor.finite(found):
    raise tensor.not_finite(checkpoint.name, place.name)
  return found


def _square(x: Float32[np.ndarray, '...']) -> float:
  return float(np.sum(np.square(x), dtype=np.float64))


def _measured(sums: np.ndarray) -> dict[str, float]:
  """Frobenius norms and counts of one tensor."""
  edit, lost, weight, meant, unchanged = (float(x) for x in sums)
  return {
      'edit_norm': math.sqrt(edit), 'rounding_norm': math.sqrt(lost),
      'weight_norm': math.sqrt(weight),
      'entries_edited': int(meant), 'entries_unchanged': int(unchanged)}


def rounding(rows: list[dict[str, Any]]) -> dict[str, Any]:
  """What storing the edited weights undid, over all tensors.

  `undone` is the norm of stored - exact over that of the edit; `unchanged` the
  share of the entries to be edited that are what they were before.
  """
  total = lambda key: math.fsum(row[key]**2 for row in rows)
  edit, meant = (
      total('edit_norm'), sum(row['entries_edited'] for row in rows))
  return {
      'dtypes': sorted({row['dtype'] for row in rows}),
      'edit_norm': math.sqrt(edit),
      'undone': math.sqrt(total('rounding_norm') / edit) if edit else 0.0,
      'unchanged': sum(
          row['entries_unchanged'] for row in rows) / max(meant, 1)}
