"""One comparison of two checkpoints: its matrices, hashes, and its table."""
import functools
import pathlib
import platform
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Shaped

import rlft
from rlft.analyses import rotation
from rlft.checkpoints import names, tensor
from rlft.checkpoints.names import Place
from rlft.checkpoints.tensor import Checkpoint
from rlft.training import progress

Part = tuple[list[dict[str, Any]], dict[str, np.ndarray]]  # rows, curves


class Job(NamedTuple):
  """Two checkpoints that belong together, and what is to be done."""
  before: Checkpoint
  after: Checkpoint
  places: list[Place]
  settings: dict[str, Any]
  digests: tuple[tensor.Digests, tensor.Digests]

  def key(self) -> dict[str, Any]:
    """What decides every number: weights, settings and versions."""
    return {
        'settings': self.settings, 'versions': versions(),
        'inputs': {role: found._asdict() for role, found in zip(
            ('before', 'after'), self.digests, strict=True)}}


def digest(checkpoint: Checkpoint, check: set[str]) -> tensor.Digests:
  """The hashes of a checkpoint, with a bar."""
  total = len(checkpoint.tensors)
  bar = progress.track(
      range(total), name=f'reading {checkpoint.name}', total=total)
  next(bar, None)
  return tensor.digest(checkpoint, check, lambda name: next(bar, None))


def versions() -> dict[str, str]:
  """Of what computes the numbers."""
  return dict(
      rlft=rlft.__version__, jax=jax.__version__, numpy=np.__version__,
      python=platform.python_version(), backend=jax.default_backend())


def measure(
    job: Job, place: Place, folder: pathlib.Path | None = None) -> Part:
  """Rows and curves of one place, from weights whose hash is checked again.

  `folder` is where factors may be set aside for a while.
  """
  before, after = (
      functools.partial(load, checkpoint, place, digest.tensors[place.name])
      for checkpoint, digest in zip(
          (job.before, job.after), job.digests, strict=True))
  path = place.name if place.index is None else f'{place.name}[{place.index}]'
  settings = {k: v for k, v in job.settings.items() if k != 'select'}
  rows, curves = rotation.compare_in_turn(
      path, before, after, module=place.module,
      shape=tensor.shape_of(job.before, place.name, place.index), folder=folder,
      **settings)
  return [_placed(row, place, job.before.kind) for row in rows], curves


def load(
    checkpoint: Checkpoint, place: Place, sha256: str | None = None,
) -> Shaped[np.ndarray, '*L M N']:
  """The matrix of a place to act as x @ W; ValueError if its file changed."""
  found = tensor.matrix(checkpoint, place.name, place.index)
  if sha256 is not None and place.index is None:
    stored = checkpoint.kind, place.name
    raw = found.mT if tensor.output_first(*stored) else found
    if tensor.sha256(raw) != sha256:
      raise ValueError(
          f'{checkpoint.name}: {place.name} changed while it was read')
  return found


def _placed(row: dict[str, Any], place: Place, kind: str) -> dict[str, Any]:
  """A row that knows its tensor, layer and expert."""
  where = {'tensor': place.name}
  if kind == 'directory':
    where['layer'] = place.layer
  if place.expert is not None:
    where['expert'] = place.expert
  return {**row, **where}


def stacked(arrays: list[np.ndarray]) -> np.ndarray:
  """Curves of one module under each other, filled up with NaN."""
  shapes = {x.shape[1:] for x in arrays}
  if len(shapes) == 1:
    return np.concatenate(arrays)
  wide = np.max(list(shapes), axis=0)
  missing = lambda x: [(0, 0), *((0, n) for n in wide - x.shape[1:])]
  return np.concatenate([
      np.pad(x, missing(x), constant_values=np.nan) for x in arrays])


def table(job: Job, rows: list[dict[str, Any]]) -> dict[str, Any]:
  """All that is known but the curves, as plain JSON."""
  draws = job.settings['draws']
  key = job.key()
  inputs = key.pop('inputs')
  chosen = dict.fromkeys(place.name for place in job.places)
  told = {}
  for role, checkpoint in (('before', job.before), ('after', job.after)):
    hashes = inputs[role]
    told[role] = {
        'name': checkpoint.name, 'kind': checkpoint.kind,
        'files': hashes['files'], 'tensors': hashes['tensors']}
  return {
      'before': job.before.name, 'after': job.after.name, **job.settings,
      'null': f'Gaussian update of equal Frobenius norm, {draws} draws',
      'compared': [
          {'tensor': name, 'shape': list(job.before.tensors[name].shape),
           'dtype': job.before.tensors[name].dtype} for name in chosen],
      'inputs': told, **key, 'warnings': warnings(job, rows),
      'rows': sorted(rows, key=lambda row: row['layer'])}


def warnings(job: Job, rows: list[dict[str, Any]]) -> list[str]:
  """What a reader should know before the numbers."""
  found = rotation.warnings(rows)
  left_out = names.left_out(job.before, job.settings['select'])
  if left_out:
    found.append(left_out)
  one, other = (x.tensors for x in job.digests)
  chosen = dict.fromkeys(place.name for place in job.places)
  same = [name for name in chosen if one[name] == other[name]]
  if len(same) == len(chosen):
    found.append(
        'before and after hold the same matrices: nothing to compare')
  elif same:
    found.append(f'{len(same)} of {len(chosen)} tensors are the same in both, '
                 f'such as {same[0]}')
  return found
