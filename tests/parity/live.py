"""Fresh random models beside transformers with torch.

    make parity         # 12 draws
    make parity-full    # 50

PARITY_SEED repeats a run, PARITY_DRAWS says how many there are. The file's name
keeps pytest from collecting it in `make test`, which has no torch.
"""
import os
import random

import numpy as np
import pytest

from tests.parity import draw, numbers, ours, reference

DRAWS = int(os.environ.get('PARITY_DRAWS', 12))
SEED = int(os.environ.get('PARITY_SEED', random.SystemRandom().randrange(
    2**31)))
TOLERANCE = 1e-4  # relative, float32; measured 2e-5 at most


@pytest.mark.parametrize('number', range(DRAWS))
def test_a_random_model_is_the_references(number, tmp_path):
  family = draw.FAMILIES[number % len(draw.FAMILIES)]
  case = draw.draw(np.random.default_rng((SEED, number)), family)
  asked, want = reference.make(case, tmp_path / 'model')
  found = numbers.errors(
      ours.answers(tmp_path / 'model', asked), want, asked)
  worst = max(found, key=found.get)
  print(f'PARITY_SEED={SEED}, draw {number}: {found[worst]:.1e} at worst, of '
        f'{worst}, {case}')
  assert found.pop('written') == 0
  wrong = {k: error for k, error in found.items() if not error < TOLERANCE}
  assert not wrong


@pytest.mark.parametrize('family', draw.FAMILIES)
def test_a_cached_continuation_of_the_reference_is_its_uncached_one(
    family, tmp_path):
  """What the fixtures store is what `generate` writes."""
  case = draw.draw(np.random.default_rng((SEED, 99)), family)
  if case.config.get('cross_attention_layers', [1])[:1] == [0]:
    pytest.skip('transformers counts the cache of layer 0, which is skipped')
  asked, want = reference.make(case, tmp_path / 'model')
  got = reference.generate(reference.load(tmp_path / 'model'), asked)
  assert not numbers.differ(got, want.written, want.margins).any()
