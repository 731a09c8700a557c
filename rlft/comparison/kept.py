"""A comparison in a directory: it goes on where it stopped."""
import json
import os
import pathlib
import shutil
import zipfile
from typing import Any

import numpy as np

from rlft import directory, paths
from rlft.analyses import rotation
from rlft.comparison import job as jobs
from rlft.comparison.job import Job, Part
from rlft.training import progress

UNFINISHED = 'unfinished'
KEY = 'key.json'


def vacant(folder: pathlib.Path) -> None:
  """ValueError unless `folder` can hold a comparison, or does so already."""
  paths.chosen(folder, '--out')
  paths.enclosed(folder)
  parent = next(
      p for p in (folder, *folder.absolute().parents) if p.exists())
  if not parent.is_dir():
    raise ValueError(f'{parent} is a file: choose another --out')
  if not os.access(parent, os.W_OK):
    raise ValueError(f'cannot write in {parent}: choose another --out')
  if folder.is_dir():
    found = {p.name for p in folder.iterdir()}
    if found and not found & {UNFINISHED, 'rotation.json'}:
      raise ValueError(
          f'{folder} holds {min(found)} and no comparison: '
          'choose another --out')


def run(job: Job, folder: pathlib.Path) -> dict[str, Any]:
  """The same in a directory, going on where it stopped."""
  finished = folder / 'rotation.json'
  if finished.is_file():
    table = _read(finished)
    _same_key(job, {k: table.get(k) for k in ('settings', 'versions')} | {
        'inputs': {role: {k: x[k] for k in ('files', 'tensors')}
                   for role, x in table['inputs'].items()}}, folder)
    _warn(table)
    return table
  parts = folder / UNFINISHED
  if (parts / KEY).is_file():
    _same_key(job, _read(parts / KEY), folder)
  try:
    parts.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ValueError(
        f'cannot write in {folder} ({error.strerror}): choose another --out'
    ) from error
  replace(parts / KEY, json.dumps(job.key()).encode())
  files = [parts / f'{i:06d}.npz' for i in range(len(job.places))]
  left = [i for i, path in enumerate(files) if _part(path) is None]
  bar = progress.track(left, name='compare', total=len(files),
                       start=len(files) - len(left))
  for i in bar:
    _write_part(files[i], jobs.measure(job, job.places[i], parts))
  table = jobs.table(job, [row for path in files for row in _part(path)[0]])
  _warn(table)
  _write_curves(folder / 'rotation.npz', job, files)
  replace(finished, (json.dumps(table, indent=1) + '\n').encode())
  shutil.rmtree(parts)
  return table


def _warn(table: dict[str, Any]) -> None:
  for text in table['warnings']:
    progress.say(f'warning: {text}')


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text())
    foreign = 'rows' in found and 'inputs' not in found
    inputs = {} if foreign else dict(found['inputs'])
  except (ValueError, TypeError, KeyError) as error:
    raise ValueError(
        f'{path} is damaged: delete {path.parent}, or choose another --out'
    ) from error
  if foreign:
    raise ValueError(
        f'{path.parent} holds the rotation of a study: choose another --out')
  return {**found, 'inputs': inputs}


def _same_key(job: Job, found: Any, folder: pathlib.Path) -> None:
  """ValueError that names the first thing in which a comparison differs."""
  now, then = (directory.flat(x, ' ') for x in (
      json.loads(json.dumps(job.key())), found))
  odd = sorted(k for k in now | then if now.get(k) != then.get(k))
  if odd:
    k = odd[0]
    raise ValueError(
        f'{folder} holds the comparison of other weights or settings: {k} '
        f'was {str(then.get(k))[:16]} and is {str(now.get(k))[:16]}; choose '
        'another --out, or delete it')


def _part(path: pathlib.Path) -> Part | None:
  """What was measured of a place; None if it was not, or only in part."""
  try:
    with path.open('rb') as file, np.load(file, allow_pickle=False) as found:
      arrays = dict(found)
  except (OSError, ValueError, EOFError, zipfile.BadZipFile):
    return None
  return json.loads(arrays.pop('rows').tobytes()), arrays


def _write_part(path: pathlib.Path, part: Part) -> None:
  rows, curves = part
  temporary = path.with_suffix(f'.{os.getpid()}')
  text = np.frombuffer(json.dumps(rows).encode(), np.uint8)
  with temporary.open('wb') as file:
    np.savez(file, rows=text, **curves)
  temporary.replace(path)


def _write_curves(
    path: pathlib.Path, job: Job, files: list[pathlib.Path]) -> None:
  """rotation.npz, with the curves of one module in memory at a time."""
  temporary = path.with_suffix(f'.{os.getpid()}')
  with zipfile.ZipFile(temporary, 'w', zipfile.ZIP_DEFLATED) as archive:
    def put(name, array):
      with archive.open(f'{name}.npy', 'w', force_zip64=True) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)

    put('top', np.asarray(rotation.FRACTIONS, np.float32))
    for module in dict.fromkeys(place.module for place in job.places):
      found = [_part(path)[1] for path, place in zip(
          files, job.places, strict=True) if place.module == module]
      for name in found[0]:
        put(f'{module}/{name}', jobs.stacked([x[name] for x in found]))
  temporary.replace(path)


def replace(path: pathlib.Path, data: bytes) -> None:
  """Writes a file whole, or not at all."""
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  temporary.write_bytes(data)
  temporary.replace(path)
