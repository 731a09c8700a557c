"""The card game: samplers, both texts, outcomes, the verification loop."""
import collections
import json

import numpy as np
import pytest

from rlft import tokenizer
from rlft.envs import general_points
from rlft.ops import card_texts, formulas, solutions

ID, OOD = (10, 10, 10), (11, 12, 13)


def draw(n, seed=0, **rules):
  rng = np.random.default_rng(seed)
  return [general_points.sample(rng, **rules).answer for _ in range(n)]


def task(cards, faces=OOD, text='compact', target=24):
  """A task with chosen ranks."""
  values = tuple(r if r <= 10 else faces[r - 11] for r in cards)
  hand = general_points.Hand(cards, values, target, faces, text)
  return general_points.Task(
      card_texts.prompt(text, cards, faces, target), hand)


def paper(formula, values='10, 5, 2, 4'):
  return (f'\n{{\n  "cards": [\'K\', \'5\', \'2\', \'4\'],\n  "number": '
          f'[{values}],\n  "formula": "{formula}",\n}}')


def test_compact_text_of_a_hand():
  one = task((13, 5, 2, 4), ID)
  assert one.prompt == '24 faces ten cards K 5 2 4 :'
  assert general_points.demonstrate(one) == '10 5 2 4 : 10 + 5 * 2 + 4 = 24'
  turn = general_points.respond(one, ['10 5 2 4 : 10 + 5 + 2 + 4 = 24'])
  assert turn.observation == 'no partial 10 + 5 :'
  assert (turn.reward, turn.done) == (-1.0, False)
  assert turn.parts == {'wrong_value': -1.0, 'number_field': 1.0}


@pytest.mark.parametrize('written, vote', [
    ('10 5 2 4 : 10 + 5 * 2 + 4 = 24', '10+5*2+4=24'),
    ('K 1 : 10 + 5*2 +4 = 24 ', '10+5*2+4=24'),  # whatever it states before
    ('10 5 2 4 : 10 + 5 * 2 + 4', '10+5*2+4'),  # another answer, as right
    ('10 5 2 4 : 5 * 2 + 10 + 4 = 24', '5*2+10+4=24'),  # so is this
    ('10 5 2 4 : 10 + 5', '10+5'), ('10 5 2 4 : 10 +', None),
    ('10 5 2 4', None), ('', None)])
def test_what_a_completion_votes_for(written, vote):
  assert general_points.answer(task((13, 5, 2, 4), ID), written) == vote
  on_paper = paper(written.partition(':')[2].strip())
  assert general_points.answer(
      task((13, 5, 2, 4), ID, 'paper'), on_paper) == vote


def test_paper_text_of_a_hand():
  one = task((13, 5, 2, 4), ID, 'paper')
  assert one.prompt.startswith('\n[Task Description]\n')
  assert one.prompt.endswith('}\n\n')
  assert "Cards: ['K', '5', '2', '4']" in one.prompt
  rule = "'J', 'Q', and 'K' count as '10'."
  assert one.prompt.count(rule) == 2
  assert f'{rule}, and each card must be used once' in one.prompt
  assert general_points.demonstrate(one) == paper('10+5*2+4=24')
  turn = general_points.respond(one, [paper('10+5+2+4=24')])
  assert turn.observation == (
      'You failed this trial because 10+5 is partially correct but the full '
      'formula does not match any solution.')


@pytest.mark.parametrize('faces, stated, short', [
    (ID, "count as '10'.", 'ten'),
    (OOD, "count as '11', '12', and '13' respectively.", 'rank'),
    ((7, 7, 7), "count as '7'.", '7 7 7'),
    ((3, 20, 5), "count as '3', '20', and '5' respectively.", '3 20 5'),
])
def test_prompts_state_the_rule_in_force(faces, stated, short):
  assert task((13, 12, 11, 4), faces, 'paper').prompt.count(stated) == 2
  assert f'faces {short} cards' in task((13, 12, 11, 4), faces).prompt


@pytest.mark.parametrize('text', ['compact', 'paper'])
@pytest.mark.parametrize('mode', formulas.MODES)
@pytest.mark.parametrize('faces', [ID, OOD])
def test_demonstrations_earn_the_most_and_mistakes_do_not(faces, mode, text):
  rng = np.random.default_rng(5)
  outcomes = collections.Counter()
  for _ in range(250):
    one = general_points.sample(rng, faces=faces, text=text)
    best = general_points.respond(
        one, [general_points.demonstrate(one)], mode=mode)
    only_fractions = (
        mode == 'faithful'
        and eval(solutions.canonical(one.answer.values)) != 24)
    if not only_fractions:
      assert best == general_points.Turn(
          '', 5.0, True, {'correct': 5.0, 'number_field': 1.0})
    slip = general_points.mistake(rng, one)
    turn = general_points.respond(one, [slip], mode=mode)
    assert turn.reward < 5 and not turn.done and turn.observation
    outcomes[general_points.outcome(one, slip, mode=mode)] += 1
  assert set(outcomes) == set(general_points.OUTCOMES) - {'correct'}


def test_words_of_the_compact_text_are_in_the_vocabulary():
  rng = np.random.default_rng(6)
  known = set(tokenizer.POINTS24)
  for faces in (ID, OOD, (99, 1, 7)):
    for _ in range(150):
      one = general_points.sample(rng, faces=faces)
      slip = general_points.mistake(rng, one)
      texts = [one.prompt, general_points.demonstrate(one), slip]
      for mode in formulas.MODES:
        for tried in (slip, slip + ' 7 7', '4 : 1 + * ) ( 2', 'x', ': 5 5 5'):
          texts.append(general_points.respond(
              one, [tried], mode=mode).observation)
      assert set(' '.join(texts).split()) - {''} <= known


@pytest.mark.parametrize('cards, completion, mode, want', [
    # K counts 13 here; 10 would make 10 + 5 * 2 + 4 = 24.
    ((13, 5, 2, 4), '10 5 2 4 : 10 + 5 * 2 + 4 = 24', 'corrected', 'lock_in'),
    ((13, 5, 2, 4), '10 5 2 4 : 10 + 5 * 2 + 4', 'faithful', 'lock_in'),
    ((13, 5, 2, 4), '10 5 2 4 : 10 + 5 + 2 + 4 = 24', 'corrected',
     'wrong_number'),
    ((13, 5, 2, 4), '10 5 2 4 : 10 + 5 * 2 + 4 = 25', 'corrected',
     'wrong_number'),
    ((13, 5, 2, 4), '10 5 2 4 : 10 + 5 * 2 + 4 = 25', 'faithful', 'lock_in'),
    ((13, 5, 2, 4), '13 5 2 4 : 13 + 5 + 2 + 4 = 24', 'corrected', 'correct'),
    ((13, 5, 2, 4), '13 5 2 4 : 13 + 5 * 2 + 4 = 24', 'corrected',
     'wrong_value'),
    ((13, 5, 2, 4), '13 5 2 4 : ( 13 + 5 + 2 + 4 = 24', 'corrected', 'format'),
    ((13, 5, 2, 4), '13 5 2 4 : ( 13 + 5 + 2 + 4 = 24', 'faithful', 'format'),
    ((13, 5, 2, 4), '13 5 2 4', 'corrected', 'format'),
    # No face card: both rules agree, so nothing can be locked in.
    ((10, 5, 2, 4), '10 5 2 4 : 10 + 5 + 2 = 24', 'corrected', 'wrong_number'),
    ((10, 5, 2, 4), '10 5 2 4 : 10 + 5 * 2 + 4 = 24', 'corrected', 'correct'),
])
def test_outcomes(cards, completion, mode, want):
  one = task(cards)
  assert general_points.outcome(one, completion, mode=mode) == want
  turn = general_points.respond(one, [completion], mode=mode)
  assert list(turn.parts) == [want, 'number_field']
  assert turn.parts[want] == turn.reward


def test_under_the_id_rule_the_other_rule_is_eleven_twelve_thirteen():
  other = '13 5 2 4 : 13 + 5 + 2 + 4 = 24'
  assert general_points.outcome(task((13, 5, 2, 4), ID), other) == 'lock_in'


@pytest.mark.parametrize('written, right', [
    ('10 5 2 4 : 4', 1.0), ('10 5 2 4', 1.0), ('10  5 2 4: 4', 1.0),
    ('5 10 2 4 : 10 + 5 * 2 + 4 = 24', 0.0), ('13 5 2 4 : 4', 0.0),
    ('10 5 2 : 4', 0.0), ('', 0.0), ('105 2 4 : 4', 0.0),
    ('10 5 2 4 4 : 4', 0.0),
])
def test_number_field_is_judged_by_itself(written, right):
  turn = general_points.respond(task((13, 5, 2, 4), ID), [written])
  assert turn.parts['number_field'] == right


def test_correct_formula_with_a_wrong_number_field_is_correct():
  turn = general_points.respond(
      task((13, 5, 2, 4), ID), ['1 2 3 : 10 + 5 * 2 + 4 = 24'])
  assert turn.reward == 5 and turn.parts['number_field'] == 0.0


@pytest.mark.parametrize('mode', ['corrected', 'faithful'])
def test_numbers_side_by_side_are_not_one(mode):
  """A word is a token of the compact text, so 1 and 0 are not 10."""
  hand = task((10, 5, 2, 4), ID)
  for formula, reward in (('10 + 5 * 2 + 4 = 24', 5),
                          ('1 0 + 5 * 2 + 4 = 24', -3)):
    turn = general_points.respond(hand, [f'10 5 2 4 : {formula}'], mode=mode)
    assert turn.reward == reward
  assert turn.parts['format'] == -3


GOOD = '10+5*2+4=24'


@pytest.mark.parametrize('written, faithful, corrected, numbers', [
    (paper(GOOD), 5, 5, 1.0),
    (json.dumps({'number': [10, 5, 2, 4], 'formula': GOOD}), 5, 5, 1.0),
    (json.dumps({'number': ['10'], 'formula': 24}), -3, -3, 0.0),
    (json.dumps({'formula': None}), -3, -3, 0.0),
    ('[1, 2]', -3, -3, 0.0),
    (f'I think so: "formula": "{GOOD}" or "formula": "1"', 5, 5, 0.0),
    (f'"formula":"{GOOD}"', -3, 5, 0.0),  # the published pattern has a space
    (f"'formula': '{GOOD}'", -3, 5, 0.0),
    (paper('10 + 5*2 + 4 = 24'), -3, 5, 1.0),
    (paper('10+5*2+4=17'), 5, -1, 1.0),
    (paper(GOOD, '"10", "5", "2", "4"'), 5, 5, 1.0),
    (paper(GOOD, '10, 5, 4, 2'), 5, 5, 0.0),
    ('"formula": "10+5*2+4', -3, -3, 0.0),
    ('the formula is ' + GOOD, -3, -3, 0.0),
    ('', -3, -3, 0.0),
])
def test_paper_replies(written, faithful, corrected, numbers):
  one = task((13, 5, 2, 4), ID, 'paper')
  for mode, reward in (('faithful', faithful), ('corrected', corrected)):
    turn = general_points.respond(one, [written], mode=mode)
    assert turn.reward == reward
    assert turn.parts['number_field'] == numbers


def test_published_loop_punishes_the_sixth_answer_unread():
  one = task((13, 5, 2, 4), ID)
  best = general_points.demonstrate(one)
  tries = ['10 5 2 4 : x'] * general_points.TRIES
  assert not general_points.respond(one, tries, mode='faithful').done
  sixth = general_points.respond(one, [*tries, best], mode='faithful')
  assert sixth == general_points.Turn(
      '', -1.0, True, {'step_limit': -1.0, 'number_field': 1.0})
  assert general_points.respond(one, [*tries, best]).reward == 5


def test_only_the_last_try_counts_and_hints_can_be_withheld():
  one = task((13, 5, 2, 4), ID)
  best, slip = general_points.demonstrate(one), '10 5 2 4 : 10 + 5 + 2 = 24'
  assert general_points.respond(one, [slip, best]).done
  assert not general_points.respond(one, [best, slip]).done
  assert general_points.respond(one, [slip], hints=False)[:2] == ('no :', -2.0)
  on_paper = general_points.respond(
      task((13, 5, 2, 4), ID, 'paper'), [paper('10+5+2')], hints=False)
  assert on_paper.observation == (
      'You failed this trial because your formula is not correct.')


@pytest.mark.parametrize('text', ['compact', 'paper'])
def test_no_completion_raises(text):
  rng = np.random.default_rng(8)
  one = general_points.sample(rng, text=text)
  pieces = ['"formula": "', '"number": [', ':', '10 ', '{', '}', '[', ']', '"',
            '=24', '(', '+', '\n', '\ud800', '\0', '²', "'formula' : '", ' ',
            '9' * 5000, '[' * 3000, '{"formula": ', '{"a":' * 2000]
  for _ in range(3000):
    written = ''.join(rng.choice(pieces, int(rng.integers(0, 8))))
    for mode in formulas.MODES:
      turn = general_points.respond(one, [written], mode=mode)
      assert next(iter(turn.parts)) in general_points.OUTCOMES
      assert turn.done == (turn.reward == 5)


@pytest.mark.parametrize('text, written, thought', [
    ('compact', '10 5 : 10 + 5 : 3', '10 5 '), ('compact', '10 5', '10 5'),
    ('paper', paper('10+5')[:-10], paper('10+5').partition('"formula"')[0]),
    ('paper', 'a "formula": 1, "formula": "formula"', 'a "formula": 1, '),
    ('paper', "the formula 'formula': '1'", 'the formula '),
    ('paper', 'the formula is 10+5', 'the formula is 10+5'), ('paper', '', '')])
def test_thoughts_end_where_the_last_key_begins(text, written, thought):
  one = task((13, 5, 2, 4), text=text)
  assert general_points.spans(one, written) == [(0, len(thought), 0.5)]
  assert general_points.spans(one, written, thought_coef=1)[0][2] == 1


def test_id_sampler_has_the_published_shares():
  hands = draw(3000)
  assert np.mean([max(h.cards) > 10 for h in hands]) == (
      pytest.approx(0.590, abs=0.03))
  assert all(solutions.solve(h.values) for h in hands)
  assert all(h.values == tuple(min(c, 10) for c in h.cards) for h in hands)


def test_ood_sampler_always_shows_a_face_anywhere():
  hands = draw(3000, faces=OOD, ensure_face=True)
  counts = collections.Counter(sum(c > 10 for c in h.cards) for h in hands)
  shares = [counts[k] / len(hands) for k in (1, 2, 3, 4)]
  np.testing.assert_allclose(shares, [.496, .404, .085, .015], atol=0.03)
  for place in range(4):  # shuffled: no place is special
    share = np.mean([h.cards[place] > 10 for h in hands])
    assert share == pytest.approx(np.dot(shares, [1, 2, 3, 4]) / 4, abs=0.03)
  assert all(h.values == h.cards for h in hands)


def test_hands_can_be_dealt_from_one_deck():
  same = draw(200, 1), draw(200, 1, deck='independent')
  assert same[0] == same[1] != draw(200, 1, deck='52')
  dealt = draw(300, deck='52', ensure_face=True)
  assert all(max(h.cards) > 10 and solutions.solve(h.values) for h in dealt)


def test_splits_share_no_multiset_of_values_even_across_rules():
  parts = {
      split: {tuple(sorted(h.values)) for faces in (ID, OOD)
              for h in draw(1200, faces=faces, split=split)}
      for split in ('train', 'held_out')}
  assert not parts['train'] & parts['held_out']
  both = len(parts['train']) + len(parts['held_out'])
  assert 0.15 < len(parts['held_out']) / both < 0.35


def test_same_seed_same_hands():
  rules = {'faces': OOD, 'ensure_face': True, 'split': 'held_out'}
  assert draw(50, 3, **rules) == draw(50, 3, **rules) != draw(50, 4, **rules)
  fixed = general_points.hands(7, 60, **rules)
  assert fixed == general_points.hands(7, 80, **rules)[:60]
  assert len({t.answer.cards for t in fixed}) == 60
  assert general_points.hands(7, 0) == []


def test_too_many_hands_is_an_error_not_a_loop(monkeypatch):
  monkeypatch.setattr(general_points, 'DRAWS', 400)
  # Two cards that make 24 under the ID rule: 3 8, 4 6, in both orders.
  assert len(general_points.hands(0, 4, cards=2)) == 4
  with pytest.raises(ValueError, match='only 4 different hands for 5'):
    general_points.hands(0, 5, cards=2)


@pytest.mark.parametrize('rules, message', [
    ({'split': 'train', 'held_out': 1.0}, 'no solvable hand'),
    ({'cards': 2, 'target': 97}, 'no solvable hand'),
    ({'cards': 6}, '2 to 5 cards'), ({'cards': 1}, '2 to 5 cards'),
    ({'faces': (10, 10)}, 'three integers'),
    ({'faces': (0, 10, 10)}, 'three integers'),
    ({'faces': (10, 10, 100)}, 'three integers'),
    ({'target': 0}, 'target'), ({'target': 100}, 'target'),
    ({'split': 'test'}, 'known: train, validation, held_out'),
    ({'held_out': 1.5}, 'between 0 and 1'),
    ({'held_out': 0.6, 'validation': 0.5}, 'what held_out leaves, 0.4'),
    ({'split': 'validation'}, 'no solvable hand'),
    ({'deck': 'tarot'}, 'known: independent, 52'),
    ({'text': 'verse'}, 'known: compact, paper'),
])
def test_rules_that_make_no_sense_are_refused_in_one_line(rules, message):
  with pytest.raises(ValueError, match=message) as refused:
    general_points.sample(np.random.default_rng(0), **rules)
  assert '\n' not in str(refused.value)


def test_shares_that_add_up_to_one_are_taken():
  """Of which 1 - 0.9 and 1 - 0.8 are a little less than the rest."""
  for held_out in (0.7, 0.8, 0.9):
    general_points.check(
        held_out=held_out, validation=round(1 - held_out, 1))


@pytest.mark.parametrize('cards', [2, 3, 5])
def test_other_sizes_of_hands(cards):
  rng = np.random.default_rng(cards)
  one = general_points.sample(rng, cards=cards, text='paper')
  assert len(one.answer.cards) == cards
  best, slip = general_points.demonstrate(one), general_points.mistake(rng, one)
  assert general_points.respond(one, [best]).reward == 5
  assert general_points.respond(one, [slip]).reward < 5
