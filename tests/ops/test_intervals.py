"""Intervals against hand-computed cases, coverage and identities."""
import itertools

import numpy as np
import pytest

from rlft.ops import intervals


def test_wilson_matches_published_counts():
  # 21 and 36 of 234: [5.9, 13.3] and [11.3, 20.6] percent.
  assert intervals.wilson(21, 234) == pytest.approx((.059, .133), abs=5e-4)
  assert intervals.wilson(36, 234) == pytest.approx((.113, .206), abs=5e-4)


def test_wilson_solves_its_own_equation():
  # The ends are the rates p with (x/n - p)^2 = z^2 p (1 - p) / n.
  z = 1.959963984540054
  for successes, n in ((1, 7), (50, 100), (999, 1000)):
    for end in intervals.wilson(successes, n):
      assert (successes / n - end) ** 2 == pytest.approx(
          z * z * end * (1 - end) / n, rel=1e-9)


def test_wilson_at_the_ends_and_by_confidence():
  low, high = intervals.wilson(0, 10)
  assert low == 0 and high == pytest.approx(.2775, abs=1e-4)
  low, high = intervals.wilson(10, 10)
  assert high == 1 and low == pytest.approx(.7225, abs=1e-4)
  narrow = intervals.wilson(5, 10, .5)
  wide = intervals.wilson(5, 10, .99)
  assert wide[0] < narrow[0] < .5 < narrow[1] < wide[1]


@pytest.mark.parametrize('successes, n', [(-1, 3), (4, 3), (0, 0)])
def test_wilson_refuses_impossible_counts(successes, n):
  with pytest.raises(ValueError, match='successes'):
    intervals.wilson(successes, n)


def test_newcombe_matches_his_worked_example():
  # Newcombe 1998, 56/70 against 48/80: .2000, .0524 to .3339 (method 10).
  assert intervals.newcombe(56, 70, 48, 80) == pytest.approx(
      (.2, .0524, .3339), abs=1e-4)


def test_resampled_rates_follow_all_equally_likely_draws():
  # Two hands, one seed: a drawn rate is 0, 1/2, 1 with weights 1, 2, 1.
  draws = intervals.resample(
      [np.array([[True, False]])], resamples=20000)[:, 0]
  shares = [np.mean(draws == rate) for rate in (0, .5, 1)]
  assert shares == pytest.approx([.25, .5, .25], abs=.02)


def test_conditions_share_their_hands():
  bits = np.random.default_rng(0).random((1, 50)) < .5
  draws = intervals.resample([np.concatenate([bits, ~bits])])
  np.testing.assert_allclose(draws.sum(axis=1), 1)
  assert draws[:, 0].std() > .03


def test_streams_share_seeds_but_not_hands():
  # Seeds with constant success: only the drawn seeds vary.
  seeds = [np.full((1, 10), rate) for rate in (False, True)]
  one, two = (intervals.resample(seeds, stream=s) for s in (0, 1))
  np.testing.assert_array_equal(one, two)
  bits = [np.random.default_rng(1).random((1, 40)) < .5]
  one, two = (intervals.resample(bits, stream=s)[:, 0] for s in (0, 1))
  assert abs(np.corrcoef(one, two)[0, 1]) < .1


def test_seeds_are_drawn_as_well_as_hands():
  # Constant within a seed: 3 seeds, 27 draws of seeds, rates 0, 1/3, 2/3, 1.
  solved = [np.full((1, 9), flag) for flag in (True, False, False)]
  draws = intervals.resample(solved, resamples=20000)[:, 0]
  expected = [sum(flags) / 3 for flags in
              itertools.product((1, 0, 0), repeat=3)]
  for rate in (0, 1 / 3, 2 / 3, 1):
    assert np.mean(np.isclose(draws, rate)) == pytest.approx(
        np.mean(np.isclose(expected, rate)), abs=.02)


def test_paired_difference_is_exact_when_hands_agree():
  bits = np.random.default_rng(0).random(100) < .4
  assert intervals.paired_bootstrap([bits], [bits]) == (0, 0, 0)


def test_paired_interval_matches_its_normal_limit():
  rng = np.random.default_rng(0)
  before = rng.random(4000) < .5
  after = np.where(rng.random(4000) < .1, True, before)
  difference = after.astype(float) - before
  mean, low, high = intervals.paired_bootstrap(
      [after], [before], resamples=8000)
  error = difference.std() / np.sqrt(4000)
  assert mean == pytest.approx(difference.mean())
  assert (high - low) / 2 == pytest.approx(1.96 * error, rel=.06)


def test_unpaired_hands_are_refused():
  with pytest.raises(ValueError, match='same seeds and hands'):
    intervals.paired_bootstrap([np.ones(3, bool)], [np.ones(4, bool)])


def test_mean_bootstrap_weighs_groups_equally():
  groups = [np.zeros(10), np.ones(1000)]
  mean, low, high = intervals.mean_bootstrap(groups)
  assert (mean, low, high) == (.5, 0, 1)
  mean, low, high = intervals.mean_bootstrap([np.arange(100.)])
  assert mean == 49.5
  assert (high - low) / 2 == pytest.approx(1.96 * 28.87 / 10, rel=.08)
