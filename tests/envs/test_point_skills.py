"""The two exercises: their texts, verdicts and where their hands come from."""
import collections

import numpy as np
import pytest

from rlft import tokenizer
from rlft.envs import general_points, point_skills
from rlft.ops import solutions

ID, OOD = (10, 10, 10), (11, 12, 13)


def draw(n, skill, seed=0, **rules):
  rng = np.random.default_rng(seed)
  return [point_skills.sample(rng, skill=skill, **rules) for _ in range(n)]


def test_texts_of_both_exercises():
  solve = point_skills.Task(
      '24 numbers 10 5 2 4 :',
      point_skills.Exercise('solve', (10, 5, 2, 4), 24))
  assert point_skills.demonstrate(solve) == '10 + 5 * 2 + 4 = 24'
  for one in draw(200, 'solve'):
    numbers = ' '.join(map(str, one.answer.values))
    assert one.prompt == f'24 numbers {numbers} :'
    assert solutions.solve(one.answer.values)
  for one in draw(200, 'translate'):
    words = one.prompt.split()
    assert words[0] == 'faces' and words[2] == 'cards' and words[-1] == ':'
    faces = {'ten': (10, 10, 10), 'rank': (11, 12, 13)}[words[1]]
    count = dict(zip('AJQK', (1, *faces), strict=True))
    values = [count[w] if w in count else int(w) for w in words[3:-1]]
    assert point_skills.demonstrate(one) == ' '.join(map(str, values))


@pytest.mark.parametrize('skill', point_skills.SKILLS)
def test_demonstrations_earn_the_most_in_known_words(skill):
  known = set(tokenizer.POINTS24)
  for one in draw(200, skill):
    best = point_skills.demonstrate(one)
    assert set(f'{one.prompt} {best}'.split()) <= known
    turn = point_skills.respond(one, [best])
    assert turn == point_skills.Turn('', 5.0, True, {'correct': 5.0})


@pytest.mark.parametrize('skill, written, outcome, reward', [
    ('solve', '10 + 5 + 2 + 4 = 24', 'wrong_value', -1.0),
    ('solve', '10 + 5 * 2 + 4 = 25', 'wrong_value', -1.0),
    ('solve', '10 + 5 * 2 = 24', 'wrong_number', -2.0),
    ('solve', '10 + 5 * 2 + 4 =24', 'correct', 5.0),
    ('solve', ': 10 + 5 * 2 + 4 = 24', 'format', -3.0),
    ('solve', '', 'format', -3.0),
    ('translate', '10 5 4 2', 'wrong_number', -2.0),
    ('translate', '10 5 2', 'wrong_number', -2.0),
    ('translate', '', 'wrong_number', -2.0),
    ('translate', ' 10 5  2 4', 'correct', 5.0),
])
def test_verdicts(skill, written, outcome, reward):
  one = point_skills.Task('', point_skills.Exercise(skill, (10, 5, 2, 4), 24))
  turn = point_skills.respond(one, [written])
  assert turn == point_skills.Turn('', reward, True, {outcome: reward})


def test_both_rules_occur_unless_one_is_asked_for():
  rules = collections.Counter(
      one.prompt.split(' cards')[0] for one in draw(600, 'translate'))
  assert set(rules) == {'faces ten', 'faces rank'}
  assert abs(rules['faces ten'] - 300) < 60
  assert all(one.prompt.startswith('faces 7 8 9 ')
             for one in draw(50, 'translate', faces=(7, 8, 9)))
  numbers = {v for one in draw(400, 'solve') for v in one.answer.values}
  assert numbers == set(range(1, 14))
  assert max(v for one in draw(400, 'solve', faces=ID)
             for v in one.answer.values) == 10


def test_translates_hands_that_nobody_can_solve():
  hopeless = [one for one in draw(200, 'translate', faces=OOD)
              if not solutions.solve(one.answer.values)]
  assert len(hopeless) > 20


@pytest.mark.slow
def test_exercises_keep_off_the_hands_that_the_game_holds_out():
  rng = np.random.default_rng(1)
  held = {
      tuple(sorted(general_points.sample(
          rng, faces=faces, split='held_out').answer.values))
      for faces in (ID, OOD) for _ in range(1000)}
  seen = {tuple(sorted(one.answer.values))
          for one in draw(2000, 'solve', split='train')}
  assert not held & seen
  assert held & {tuple(sorted(one.answer.values))
                 for one in draw(2000, 'solve')}


def test_same_seed_same_exercises():
  for skill in point_skills.SKILLS:
    assert draw(30, skill, 2) == draw(30, skill, 2) != draw(30, skill, 3)


@pytest.mark.parametrize('rules, message', [
    ({'skill': 'bluff'}, 'known: solve, translate'),
    ({'skill': 'solve', 'faces': (1, 2)}, 'three integers'),
    ({'skill': 'translate', 'cards': 9}, '2 to 5 cards'),
    ({'skill': 'solve', 'split': 'train', 'held_out': 1.0}, 'no solvable hand'),
])
def test_rules_that_make_no_sense_are_refused(rules, message):
  with pytest.raises(ValueError, match=message):
    point_skills.sample(np.random.default_rng(0), **rules)
