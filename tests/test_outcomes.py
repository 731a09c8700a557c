"""Every turn is of one kind, and a kind's share is its own."""
import pytest

from rlft import outcomes
from rlft.types import Turn


def turn(name):
  return Turn('', 1.0, True, {name: 1.0, 'number_field': 0.0})


@pytest.mark.parametrize('name, whole, cut', [
    ('correct', 'correct', 'correct'), ('wrong_value', 'wrong', 'truncated'),
    ('lock_in', 'wrong', 'truncated'), ('format', 'unparsable', 'truncated'),
    ('unparsable', 'unparsable', 'truncated'),
    ('timed_out', 'timed_out', 'timed_out'), ('crashed', 'crashed', 'crashed')])
def test_a_turn_is_of_one_kind(name, whole, cut):
  assert outcomes.named(turn(name)) == name
  assert outcomes.kind(turn(name), False) == whole
  assert outcomes.kind(turn(name), True) == cut
  assert {whole, cut} <= set(outcomes.KINDS)


def test_each_kind_has_a_rate_of_its_own():
  found = outcomes.rates(['correct', 'crashed', 'crashed', 'wrong'])
  assert found == {
      'outcome_correct': 0.25, 'outcome_wrong': 0.25, 'outcome_crashed': 0.5,
      'outcome_unparsable': 0, 'outcome_truncated': 0, 'outcome_timed_out': 0}


@pytest.mark.parametrize('wanted, complaint', [
    ((), 'learn_from is empty; known: correct, wrong,'),
    (('correct', 'late'), "learn_from has no kind 'late'; known: correct"),
    ('late', "learn_from has no kind 'late'")])
def test_kinds_that_are_none_are_refused(wanted, complaint):
  with pytest.raises(ValueError, match=complaint):
    outcomes.known(wanted, 'experience.learn_from')


def test_a_single_word_is_a_kind():
  assert outcomes.known('correct', '') == {'correct'}
