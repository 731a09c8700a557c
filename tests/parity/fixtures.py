"""Stored checkpoints with what transformers says of them."""
import pathlib

import numpy as np
import safetensors.numpy

from tests.parity.numbers import Asked, Numbers

ROOT = pathlib.Path(__file__).parents[1] / 'fixtures' / 'models'
EXPECTED = 'expected.safetensors'
GRADIENT = 'gradient.'


def store(folder: pathlib.Path, asked: Asked, want: Numbers) -> None:
  """Writes both beside the checkpoint; gradients that are all 0 are not."""
  arrays = asked._asdict() | want._asdict()
  arrays |= {GRADIENT + k: v for k, v in arrays.pop('gradients').items()
             if v.any()}
  safetensors.numpy.save_file(  # which takes memory as it lies
      {k: np.asarray(v, order='C') for k, v in arrays.items()},
      folder / EXPECTED)


def load(name: str) -> tuple[pathlib.Path, Asked, Numbers]:
  """The checkpoint's directory, what it is asked, and what it has to say."""
  folder = ROOT / name
  found = safetensors.numpy.load_file(folder / EXPECTED)
  gradients = {k.removeprefix(GRADIENT): found.pop(k)
               for k in list(found) if k.startswith(GRADIENT)}
  asked = {k: found.pop(k) for k in Asked._fields}
  asked |= {k: int(asked[k]) for k in ('pad', 'new')}
  found['loss'] = float(found['loss'])
  return folder, Asked(**asked), Numbers(gradients=gradients, **found)
