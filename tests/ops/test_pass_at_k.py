"""pass@k against enumeration and by hand."""
import itertools

import numpy as np
import pytest

from rlft.ops import pass_at_k


def test_by_hand():
  # One of four solved: 1/4, 1/2, 3/4, 1. None and all: 0 and 1.
  wins = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]], bool)
  np.testing.assert_allclose(pass_at_k.estimate(wins), [
      [.25, 0, 1], [.5, 0, 1], [.75, 0, 1], [1, 0, 1]])


def test_it_is_the_share_of_sets_that_hold_a_solved_sample():
  wins = np.random.default_rng(0).random((5, 30)) < .4
  found = pass_at_k.estimate(wins)
  for k in range(1, 6):
    sets = [wins[list(some)].any(axis=0)
            for some in itertools.combinations(range(5), k)]
    np.testing.assert_allclose(found[k - 1], np.mean(sets, axis=0))


def test_it_is_unbiased():
  rng = np.random.default_rng(1)
  found = pass_at_k.estimate(rng.random((5, 40000)) < .3).mean(axis=1)
  assert found == pytest.approx(1 - .7 ** np.arange(1, 6), abs=.01)
