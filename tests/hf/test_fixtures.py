"""Stored checkpoints of every family give what transformers gave for them."""
import pytest

from rlft.hf import architecture
from tests.parity import draw, fixtures, numbers, ours

TOLERANCE = 3e-5  # relative, float32; measured 6e-6 at most


@pytest.mark.parametrize('name', draw.FIXTURES)
def test_numbers_are_those_of_the_reference(name):
  folder, asked, want = fixtures.load(name)
  found = numbers.errors(ours.answers(folder, asked), want, asked)
  assert found.pop('written') == 0
  wrong = {k: error for k, error in found.items() if not error < TOLERANCE}
  assert not wrong


def test_the_fixtures_have_every_feature():
  shapes = [architecture.read(fixtures.ROOT / name).shape
            for name in draw.FIXTURES]
  ropes = {(x['rope'].get('scaling'), x['rope'].get('factor'))
           for x in shapes}
  assert ropes >= {('llama3', 8), ('llama3', 32), ('linear', 4), (None, None)}
  assert {x['heads'] // x['kv_heads'] for x in shapes} >= {1, 4, 7}
  for field in ('tied', 'qkv_bias', 'qk_norm'):
    assert {x[field] for x in shapes} == {True, False}
  assert any(x.get('head_size') for x in shapes)
  assert {x.family for x in draw.FIXTURES.values()} == set(draw.FAMILIES)


def test_the_fixtures_are_small():
  assert sum(p.stat().st_size for p in fixtures.ROOT.rglob('*')
             if p.is_file()) < 8e6


@pytest.mark.parametrize('family', draw.FAMILIES)
def test_greedy_choices_are_clear(family):
  """Rounding does not decide what is written."""
  for name, case in draw.FIXTURES.items():
    if case.family == family:
      _, asked, want = fixtures.load(name)
      assert want.margins.min() > numbers.CLEAR
      assert want.written.shape == (3, asked.new)
