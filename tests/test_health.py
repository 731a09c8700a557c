"""Groups, empty completions and padding of a rollout, by hand."""
import math

from rlft import episodes, health
from rlft.types import Task, Turn

STOP, WORD = 2, 9


def episode(prompt, *completions, paid=0.0):
  """Turns of these tokens; 3 of feedback in between."""
  tokens, ids = [WORD] * prompt, [-1] * prompt
  for turn, wrote in enumerate(completions):
    if turn:
      tokens, ids = tokens + [WORD] * 3, ids + [-1] * 3
    tokens, ids = tokens + wrote, ids + [turn] * len(wrote)
  return episodes.Episode(
      Task('', None), tokens, [i >= 0 for i in ids], ids, [], [], [], [],
      [Turn('', paid, False, {})] * len(completions))


def test_groups_that_were_paid_the_same_teach_nothing():
  assert health.zero_spread([
      [1., 1., 1.], [1., 1., 1 + 1e-9], [0., 0., 0.], [5., 0., 5.]]) == 0.5
  failed = math.nan  # the verifier: no reward
  assert health.zero_spread([
      [1., failed, 1.], [failed, failed], [1., failed, 2.]]) == 2 / 3


def test_a_completion_is_empty_when_it_is_nothing_but_a_stop():
  assert health.empty([
      episode(3, [STOP], [WORD, STOP]), episode(3, [WORD]),
      episode(3, [WORD, WORD])], stops=(STOP, 7)) == 1 / 4
  assert health.empty([episode(3, [STOP]), episode(3, [7])], (STOP, 7)) == 1


def test_what_sampling_computed_for_nothing():
  told = health.sampling(dict(needed=30, computed=40, decoded=6, steps=8))
  assert told == dict(sampling_padding=0.25, slot_use=0.75)
  assert health.sampling(dict(  # all ended with their first tokens
      needed=30, computed=40, decoded=0, steps=0))['slot_use'] == 1


def test_groups_are_only_told_of_where_there_are_any():
  played = [episode(3, [STOP], [STOP], paid=paid) for paid in (1., 1., 0., 1.)]
  asked = dict(stops=(STOP,))
  assert 'zero_spread' not in health.measure(played, group=1, **asked)
  assert health.measure(played, group=2, **asked)['zero_spread'] == .5
  assert health.measure(played, group=4, **asked)['zero_spread'] == 0
