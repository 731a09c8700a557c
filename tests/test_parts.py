"""The one indirection finds parts, and says what it knows when it cannot."""
import pytest

from rlft import parts
from rlft.objectives import ppo


def test_names_are_the_files_sorted():
  found = parts.names('objectives')
  assert {'ppo', 'sft'} <= set(found)
  assert found == sorted(found)


def test_load_is_the_module():
  assert parts.load('objectives', 'ppo') is ppo


def test_bind_fills_keywords():
  bound = parts.bind('objectives', 'loss', 'ppo', clip=0.3)
  assert bound.func is ppo.loss
  assert bound.keywords == {'clip': 0.3}


def test_unknown_part_lists_the_known():
  with pytest.raises(ValueError, match=r"no 'pop' .*ppo.*sft"):
    parts.load('objectives', 'pop')


def test_a_path_is_not_a_name():
  with pytest.raises(ValueError, match='no '):
    parts.load('objectives', '../ops/kl')


def test_unknown_function_is_refused():
  with pytest.raises(ValueError, match=r'sft\.py has no advantages\(\)'):
    parts.bind('objectives', 'advantages', 'sft')


def test_unknown_keyword_lists_the_known():
  with pytest.raises(ValueError, match=r'takes no clpi; known: .*clip'):
    parts.bind('objectives', 'loss', 'ppo', clpi=0.3, value_clip=None)


def test_all_unknown_keywords_are_named():
  with pytest.raises(ValueError, match='takes no a, b;'):
    parts.bind('objectives', 'loss', 'ppo', b=1, a=2)


def test_none_is_a_value_only_where_it_may_be():
  assert parts.bind('objectives', 'loss', 'ppo', value_clip=None)
  with pytest.raises(ValueError, match=r'ppo\.py: clip is None: give a value'):
    parts.bind('objectives', 'loss', 'ppo', value_clip=None, clip=None)
  with pytest.raises(ValueError, match='kl_reward_coef is None: give a value'):
    parts.bind('objectives', 'advantages', 'ppo', kl_reward_coef=None)
