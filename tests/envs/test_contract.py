"""What every environment promises: a new file is found here."""
import math
import types

import numpy as np
import pytest

from rlft import envs, parts
from rlft.types import Task, Turn

RULES = {  # what an environment cannot be bound without, and more to try
    'point_skills': [dict(skill='solve'), dict(skill='translate')],
    'general_points': [
        dict(text='compact', mode='corrected'),
        dict(text='paper', mode='faithful', faces=(11, 12, 13),
             ensure_face=True)],
}
CASES = [(name, rules) for name in parts.names('envs')
         for rules in RULES.get(name, [{}])]
PIECES = ['24', '=', '10', '(', ')', '+', '-', '*', '/', ':', ',', '"', '{',
          'cards', 'formula', 'K', '\n', '\x00', 'é', '9' * 30, '1/0', ' ']


@pytest.fixture(params=CASES, ids=lambda case: f'{case[0]}-{len(case[1])}')
def env(request):
  name, rules = request.param
  return envs.bind(name, **rules)


def tasks_of(env, n=12, seed=0):
  rng = np.random.default_rng(seed)
  return [env.sample(rng) for _ in range(n)]


def noise(seed, n=40):
  """Texts of any length from pieces that mean something and some that don't."""
  rng = np.random.default_rng(seed)
  yield ''
  for _ in range(n):
    yield rng.choice(['', ' ']).join(rng.choice(PIECES, rng.integers(1, 14)))


def test_the_oracle_earns_the_maximum_and_ends_the_episode(env):
  for task in tasks_of(env):
    turn = env.respond(task, [env.demonstrate(task)])
    assert turn.done and turn.observation == ''
    assert 'correct' in turn.parts
    others = [env.respond(task, [text]).reward for text in noise(0, 10)]
    assert turn.reward >= max(others) and turn.reward > min(others)


def test_any_text_gets_a_turn(env):
  task = tasks_of(env, 1)[0]
  for text in noise(1):
    turn = env.respond(task, [text])
    assert math.isfinite(turn.reward), text
    assert turn.done == (turn.observation == '') or turn.done, text
    assert all(map(math.isfinite, turn.parts.values())), text
    outcome, *rest = turn.parts  # the outcome stands first
    assert outcome != 'number_field' and set(rest) <= {'number_field'}, text
    assert turn.parts[outcome] == turn.reward, text


def test_respond_is_a_function_of_what_it_is_given(env):
  task = tasks_of(env, 1)[0]
  texts = [*noise(2, 10), env.demonstrate(task)]
  first = [env.respond(task, [text]) for text in texts]
  assert [env.respond(task, [text]) for text in reversed(texts)] == first[::-1]
  given = ['1', '2']
  env.respond(task, given)
  assert given == ['1', '2']


def test_only_the_last_completion_is_judged(env):
  task = tasks_of(env, 1)[0]
  right = env.demonstrate(task)
  assert env.respond(task, ['1', right]).done
  assert env.respond(task, ['1', right]) == env.respond(task, [right])


def test_tasks_are_a_function_of_the_generator(env):
  assert tasks_of(env) == tasks_of(env)
  assert tasks_of(env, seed=1) != tasks_of(env)


def test_fixed_tasks_are_distinct_and_a_shorter_list_begins_a_longer(env):
  if env.hands is None:
    return
  some, more = env.hands(3, 8), env.hands(3, 20)
  assert more[:8] == some
  assert len({t.prompt for t in more}) == 20
  assert env.hands(4, 8) != some


def test_a_mistake_is_never_right(env):
  if env.mistake is None:
    return
  rng = np.random.default_rng(0)
  for task in tasks_of(env, 40):
    turn = env.respond(task, [env.mistake(rng, task)])
    assert not turn.done and 'correct' not in turn.parts
    assert turn.observation


def test_spans_are_within_the_text_of_any_completion(env):
  if env.spans is None:
    return
  for task in tasks_of(env, 3):
    for text in (*noise(3), env.demonstrate(task)):
      for start, stop, weight in env.spans(task, text):
        assert 0 <= start <= stop <= len(text), text
        assert math.isfinite(weight) and weight >= 0, text


def test_the_oracle_has_a_vote_and_equal_votes_are_equally_right(env):
  if env.answer is None:
    return
  for task in tasks_of(env, 3):
    best = env.demonstrate(task)
    assert env.answer(task, best) is not None
    told = {}
    for text in (*noise(4), best, f'{best} ', env.mistake(
        np.random.default_rng(0), task)):
      vote = env.answer(task, text)
      assert vote == env.answer(task, text), text
      hash(vote)
      good = 'correct' in env.respond(task, [text]).parts
      assert told.setdefault(vote, good) == good, text
    assert not told.get(None)  # what is right says what it says


def paying(reward, monkeypatch):
  """An environment that pays this."""
  module = types.SimpleNamespace(
      sample=lambda rng: None, demonstrate=lambda task: '',
      respond=lambda task, completions: Turn('', reward, True, {}))
  monkeypatch.setattr(parts, 'load', lambda folder, name: module)
  return envs.bind('odd').respond(Task('', None), [''])


@pytest.mark.parametrize('reward, told', [
    (1, r'reward 1 \(int\)'), (True, r'reward True \(bool\)'),
    (None, r'reward None \(NoneType\)'), (math.nan, r'reward nan \(float\)'),
    (-math.inf, 'reward -inf'), ('1.0', r"'1\.0' \(str\)"),
    (np.float32(1), 'float32'), (np.ones(1), 'ndarray')])
def test_a_reward_that_is_no_finite_float_is_refused(reward, told, monkeypatch):
  with pytest.raises(ValueError, match=f'the environment odd gave .*{told}'):
    paying(reward, monkeypatch)


@pytest.mark.parametrize('reply', [None, 1.0])
def test_what_is_no_turn_is_refused(reply):
  with pytest.raises(ValueError, match=f'reward {reply} .* must give a Turn'):
    envs.reply('odd', lambda *_: reply, Task('', None), [''])


def test_a_reward_that_is_a_float_is_paid(monkeypatch):
  assert paying(0.5, monkeypatch).reward == 0.5
  assert paying(np.float64(-2), monkeypatch).reward == -2


@pytest.mark.parametrize('name, rules', CASES)
def test_an_unknown_rule_lists_the_known(name, rules):
  with pytest.raises(ValueError, match=f'{name} has no rule colour; known: '):
    envs.bind(name, colour='red', **rules)


def test_an_unknown_environment_lists_the_known():
  with pytest.raises(ValueError, match=r"no 'chess' .*general_points"):
    envs.bind('chess')
