"""Fresh random models beside transformers with torch.

    make parity         # 12 draws
    make parity-full    # 50

PARITY_SEED repeats a run, PARITY_DRAWS says how many there are. The file's name
keeps pytest from collecting it in `make test`, which has no torch.
"""
import os
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.hf import writing
from tests.parity import draw, numbers, ours, reference

DRAWS = int(os.environ.get('PARITY_DRAWS', 12))
SEED = int(os.environ.get('PARITY_SEED', random.SystemRandom().randrange(
    2**31)))
TOLERANCE = 1e-4  # relative, float32; measured 2e-5 at most
WRITTEN = 1e-5  # the same, of the largest logit
# A draw may be of a model that magnifies rounding: one is asked for no more
# than 6 times what moving each weight by a last bit does to its own logits,
# which is itself one draw: 3.2 times was seen.
ROUNDING = 6


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


@pytest.mark.parametrize('number', range(max(DRAWS // 3, 4)))
def test_transformers_reads_what_is_written(number, tmp_path):
  """Trained parameters, in numbers that the stored dtype has: no warning,
  and the same logits."""
  family = draw.FAMILIES[number % len(draw.FAMILIES)]
  rng = np.random.default_rng((SEED, 1000 + number))
  case = draw.draw(rng, family)
  asked, before = reference.make(case, tmp_path / 'model')
  model, params = ours.load(tmp_path / 'model', asked.pad)
  params = jax.tree.map(
      lambda x: jnp.asarray(x * rng.uniform(.8, 1.2, x.shape), case.dtype)
      .astype(jnp.float32), params)
  (tmp_path / 'written').mkdir()
  writing.write(params, tmp_path / 'model', tmp_path / 'written')
  theirs = reference.load(tmp_path / 'written')
  want = reference.logits(theirs, asked)
  got = ours.logits(model, params, asked)
  real = asked.tokens != asked.pad
  gap = lambda a, b: np.abs(a - b)[real].max() / np.abs(b)[real].max()
  least = gap(reference.logits(reference.moved(theirs), asked), want)
  print(f'PARITY_SEED={SEED}, written {number}: {gap(got, want):.1e}, by '
        f'rounding {least:.1e}, {case}')
  assert gap(got, want) < max(WRITTEN, ROUNDING * least)
  assert gap(before.logits, want) > 1e-2


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
