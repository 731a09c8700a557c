"""The contract itself: no folder is left out, and a dead option is seen."""
import pathlib
import re

import pytest

import rlft
from tests import options

ROOT = pathlib.Path(rlft.__file__).parent
HERE = pathlib.Path(__file__).parents[1]
# folder of parts -> the test that changes every keyword of every part in it
CONTRACTS = {
    'analyses': 'options/test_analyses.py',
    'decoding': 'options/test_small.py',
    'envs': 'options/test_envs.py',
    'experience': 'options/test_experience.py',
    'models': 'options/test_models.py',
    'objectives': 'objectives/test_options.py',
    'optimizers': 'optimizers/test_contract.py'}


def test_every_folder_of_parts_has_a_contract():
  text = '\n'.join(p.read_text() for p in ROOT.rglob('*.py'))
  folders = set(re.findall(
      r"parts\.(?:bind|load|names)\(\s*'(\w+)'", text))
  assert folders == set(CONTRACTS), 'a folder of parts without a contract'
  for folder, file in CONTRACTS.items():
    assert f"parts.names('{folder}')" in (HERE / file).read_text(), file


def part(told, **other):
  return options.Part('toy', options.keywords(told), told, other)


def test_a_dead_option_is_seen():
  def told(*, alive=1, dead=2, depends=3):
    return {'a': alive, 'b': depends if alive > 1 else None}

  toy = part(told, alive=4, dead=5, depends=options.Beside(6, dict(alive=2)))
  options.check(toy, 'alive')
  options.check(toy, 'depends')
  with pytest.raises(AssertionError, match='dead of toy is a dead option'):
    options.check(toy, 'dead')
  alone = toy._replace(other=dict(depends=6))
  with pytest.raises(AssertionError, match='depends of toy is a dead option'):
    options.check(alone, 'depends')


def test_a_keyword_without_another_value_says_what_to_add():
  toy = part(lambda *, new=1: new)
  with pytest.raises(AssertionError, match='toy takes new, of which no other'):
    options.check(toy, 'new')


def test_what_a_run_gives_is_no_option():
  def told(env, *, tokenizer, rows=1):
    return rows

  assert options.keywords(told) == ('tokenizer', 'rows')
  assert options.keywords(told, ('tokenizer',)) == ('rows',)


@pytest.mark.parametrize('one, other', [
    ({'a': 1.0}, {'a': 1.0 + 1e-12}), ([1, 2], [1, 2, 3]), ('a', 'b'),
    ({'a': None}, {'a': 0.0}), ((1,), [1]), (1, 1.0)])
def test_a_small_difference_is_one(one, other):
  assert options.differs(one, other) and not options.differs(one, one)
