"""Asks a peer, which runs in an environment of its own, and compares."""
import os
import pathlib
import subprocess
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

ROOT = pathlib.Path(__file__).parents[3]
TOLERANCE = 1e-5  # relative to the largest number of a batch, or to LEAST
LEAST = 0.1  # as what is summed is of order one, and so is its rounding
Answers = dict[str, Float[np.ndarray, '...']]


def ask(
    side: str, python: str, folder: pathlib.Path, arrays: dict[str, Any], *,
    path: str = '',
) -> Answers:
  """What the module `side` beside this one makes of the arrays.

  `python` is the variable of the environment that names the peer's
  interpreter; `path` is searched before what is installed there.
  """
  if not os.environ.get(python):
    raise ValueError(f'{python} names no interpreter: run `make parity`')
  asked, said = folder / 'asked.npz', folder / 'said.npz'
  np.savez(asked, **arrays)
  # modules that are imported are compiled once: pip did not
  kept = {k: v for k, v in os.environ.items()
          if k not in ('PYTHONPATH', 'PYTHONDONTWRITEBYTECODE')}
  subprocess.run(
      [os.environ[python], '-m', f'tests.parity.rl.{side}', asked, said],
      cwd=ROOT, check=True,
      env=kept | {'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1'}
      | ({'PYTHONPATH': path} if path else {}))
  with np.load(said) as found:
    return dict(found)


def gaps(got: np.ndarray, want: np.ndarray) -> Float[np.ndarray, 'N']:
  """Largest error of each batch, relative to its largest number."""
  got, want = (np.reshape(x, (len(x), -1)).astype(np.float64)
               for x in (got, want))
  return abs(got - want).max(1) / np.maximum(abs(want).max(1), LEAST)


def check(
    name: str, got: np.ndarray, want: np.ndarray,
    where: Bool[np.ndarray, 'N'],
) -> None:
  """AssertionError unless the batches that are looked at agree; prints the
  largest error."""
  found = gaps(got[where], want[where])
  print(f'{name}: {found.max():.1e} at worst, of {len(found)} batches')
  assert len(found) > 0.8 * len(where), 'too few batches can be compared'
  wrong = np.flatnonzero(where)[~(found <= TOLERANCE)]
  assert not len(wrong), f'{name}: {len(wrong)} batches differ: {wrong[:5]}'
