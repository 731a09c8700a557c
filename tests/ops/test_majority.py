"""majority@k by hand, with ties, and by enumeration."""
import itertools

import numpy as np
import pytest

from rlft.ops import majority


def rate(answers, right):
  return majority.vote(answers, np.array(right, bool))


@pytest.mark.parametrize('answers, right, likely', [
    ('aab', (1, 1, 0), 1.0),
    ('abb', (1, 0, 0), 0.0),
    ('ab', (1, 0), 0.5),  # one of two is drawn
    ('aabbc', (1, 1, 0, 0, 1), 0.5),  # c is not among the first
    ('aabbcc', (1, 1, 1, 1, 0, 0), 2 / 3),
    ([None, None, 'a'], (0, 0, 1), 1.0),  # what says nothing has no vote
    ([None, None], (0, 0), 0.0),
    ('aaab', (1, 0, 0, 0), 1 / 3),  # a verifier that is of two minds
    ('a', (1,), 1.0), ('a', (0,), 0.0)])
def test_an_election_by_hand(answers, right, likely):
  assert rate(answers, right) == pytest.approx(likely)


def test_sets_of_k_samples_that_follow_one_another():
  """Two tasks, five samples: the fifth is in no pair."""
  answers = ['aa', 'ab', 'bb', 'bb', 'ba']
  right = np.array([[1, 0], [1, 1], [0, 1], [0, 1], [0, 0]], bool)
  np.testing.assert_allclose(
      majority.estimate(answers, right, 1), right.mean(axis=0))
  np.testing.assert_allclose(  # aa, bb; ab, bb
      majority.estimate(answers, right, 2), [.5, .75])
  np.testing.assert_allclose(  # b has three of five
      majority.estimate(answers, right, 5), [0, 1])


def test_it_is_unbiased():
  """Three answers of one task; all sets of three, as likely as they are."""
  shares, right = {'a': .5, 'b': .3, None: .2}, {'a': True}
  want = sum(np.prod([shares[a] for a in drawn]) * rate(
      drawn, [right.get(a, False) for a in drawn])
      for drawn in itertools.product(shares, repeat=3))
  rng = np.random.default_rng(0)
  names = np.array([*shares], object)
  drawn = names[rng.choice(3, size=(6, 20000), p=[*shares.values()])]
  found = majority.estimate(drawn.tolist(), drawn == 'a', 3)
  assert found.mean() == pytest.approx(want, abs=.01)
