"""What goes to another process comes back as it was, or is refused."""
import functools
import json

import numpy as np
import pytest

from rlft import envs, spelled
from rlft.envs import general_points
from rlft.types import Task
from tests import misjudging


class Judge:
  """Of whose method another process would find the function, without it."""

  def respond(self, task, completions):
    return self, task, completions


HAND = general_points.Hand((1, 12), (1, 10), 24, (10, 10, 10), 'compact')


@pytest.mark.parametrize('value', [
    None, True, 3, -0.5, 'a "b" \u2660\n', [], (), [1, (2, [3])],
    {'of': 1, 'tuple': [2]}, Task('24 of', HAND),
    Task('x', {'rows': (1, None)}), float('inf')], ids=repr)
def test_a_value_comes_back_as_it_was(value):
  again = spelled.read(spelled.write(value))
  assert again == value
  assert repr(again) == repr(value)  # types as well, at any depth


def test_a_function_comes_back_with_its_keywords():
  assert spelled.read(spelled.write(misjudging.respond)) is misjudging.respond
  paid = functools.partial(misjudging.respond, reward=2.0)
  again = spelled.read(spelled.write(paid))
  assert again.func is misjudging.respond and again.keywords == {'reward': 2.0}
  again = spelled.read(spelled.write(functools.partial(envs.reply, 'x', paid)))
  assert again.func is envs.reply and again.args[0] == 'x'
  assert again.args[1].keywords == {'reward': 2.0}


def test_it_is_json():
  tree = json.loads(spelled.write((HAND, misjudging.respond)))
  assert tree['tuple'][0]['of'] == ['rlft.envs.general_points', 'Hand']


@pytest.mark.parametrize('value, said', [
    (np.int64(3), 'is a int64'), ({1: 2}, 'is a dict'), ({1, 2}, 'is a set'),
    (b'x', 'is a bytes'), (lambda task: task, 'define it in a module'),
    (functools.partial(lambda task: task, 1), 'define it in a module'),
    (Judge().respond, 'define it in a module')])
def test_anything_else_is_refused_by_its_name(value, said):
  with pytest.raises(ValueError, match=said) as caught:
    spelled.write(['before', value])
  assert '\n' not in str(caught.value)
