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


def alone(count):
  """Every hand a problem of its own."""
  return np.arange(count)


def test_wilson_takes_an_effective_sample():
  low, high = intervals.wilson(2.5, 5.)
  assert (low, high) == intervals.wilson(2.5, 5) and low < .5 < high


def test_resampled_rates_follow_all_equally_likely_draws():
  # Two hands, one seed: a drawn rate is 0, 1/2, 1 with weights 1, 2, 1.
  draws = intervals.resample(
      [np.array([[True, False]])], [alone(2)], resamples=20000)[:, 0]
  shares = [np.mean(draws == rate) for rate in (0, .5, 1)]
  assert shares == pytest.approx([.25, .5, .25], abs=.02)


def test_problems_are_drawn_whole():
  # Problem 7 has one solved hand, problem 3 one solved of three: a draw is
  # 7 7, 3 7 or 7 3, 3 3, with 2/2, 2/4, 2/6 of its hands solved.
  draws = intervals.resample(
      [np.array([[True, False, True, False]])], [np.array([3, 3, 7, 3])],
      resamples=20000)[:, 0]
  shares = [np.mean(np.isclose(draws, rate)) for rate in (1, .5, 1 / 3)]
  assert shares == pytest.approx([.25, .5, .25], abs=.02)


def test_conditions_share_their_hands():
  bits = np.random.default_rng(0).random((1, 50)) < .5
  draws = intervals.resample([np.concatenate([bits, ~bits])], [alone(50)])
  np.testing.assert_allclose(draws.sum(axis=1), 1)
  assert draws[:, 0].std() > .03


def test_streams_share_seeds_but_not_hands():
  # Seeds with constant success: only the drawn seeds vary.
  seeds = [np.full((1, 10), rate) for rate in (False, True)]
  one, two = (intervals.resample(seeds, [alone(10)] * 2, stream=s)
              for s in (0, 1))
  np.testing.assert_array_equal(one, two)
  bits = [np.random.default_rng(1).random((1, 40)) < .5]
  one, two = (intervals.resample(bits, [alone(40)], stream=s)[:, 0]
              for s in (0, 1))
  assert abs(np.corrcoef(one, two)[0, 1]) < .1


def test_seeds_are_drawn_as_well_as_hands():
  # Constant within a seed: 3 seeds, 27 draws of seeds, rates 0, 1/3, 2/3, 1.
  solved = [np.full((1, 9), flag) for flag in (True, False, False)]
  draws = intervals.resample(solved, [alone(9)] * 3, resamples=20000)[:, 0]
  expected = [sum(flags) / 3 for flags in
              itertools.product((1, 0, 0), repeat=3)]
  for rate in (0, 1 / 3, 2 / 3, 1):
    assert np.mean(np.isclose(draws, rate)) == pytest.approx(
        np.mean(np.isclose(expected, rate)), abs=.02)


def test_crossed_seeds_meet_the_same_drawn_problems():
  # The same outcomes under three seeds are worth those of one, not of three.
  bits = np.random.default_rng(0).random((1, 80)) < .5
  one = intervals.resample([bits], [alone(80)])
  same = intervals.resample([bits] * 3, [alone(80)] * 3)
  np.testing.assert_allclose(same, one)
  # Other hands: the mean of three, drawn with replacement: 5/9 of the variance.
  others = intervals.resample([bits] * 3, [alone(80) + k for k in range(3)])
  assert others.std() == pytest.approx(np.sqrt(5 / 9) * one.std(), rel=.1)


def nested(solved, problems, rng, resamples=300):
  """The bootstrap that draws problems anew for every drawn seed."""
  drawn = np.array([[intervals.resample(
      [bits], [problems], resamples=resamples, stream=3 * slot + i)[:, 0]
      for i, bits in enumerate(solved)] for slot in range(3)])
  chosen = rng.integers(3, size=(3, 1, resamples))
  return np.take_along_axis(drawn, chosen, axis=1).mean(axis=(0, 1))


def test_crossed_intervals_cover_and_nested_ones_do_not():
  # 40 problems of 5 hands, 3 seeds; how hard a problem is, is the same for
  # every seed. The truth is the mean over all problems, .5.
  rng = np.random.default_rng(0)
  problems = np.repeat(np.arange(40), 5)
  hits = {'crossed': 0, 'nested': 0, 'hands': 0}
  trials = 100
  for _ in range(trials):
    ease = rng.beta(.3, .3, size=40)[problems]
    solved = [rng.random((1, 200)) < ease for _ in range(3)]
    for name, draws in (
        ('crossed', intervals.resample(
            solved, [problems] * 3, resamples=300)[:, 0]),
        ('hands', intervals.resample(
            solved, [alone(200)] * 3, resamples=300)[:, 0]),
        ('nested', nested(solved, problems, rng))):
      low, high = intervals.quantiles(draws)
      hits[name] += low <= .5 <= high
  assert .90 <= hits['crossed'] / trials <= .98
  assert hits['nested'] / trials < .88 and hits['hands'] / trials < .80


def test_a_difference_without_discordant_pairs_has_a_width():
  # Rule of three: nothing seen in 60 problems excludes 3 / 60, not less.
  bits = np.random.default_rng(0).random(300) < .4
  mean, low, high = intervals.contrast(
      [np.stack([bits, bits])], [np.repeat(np.arange(60), 5)], [1, -1])
  assert mean == 0 and (low, high) == pytest.approx((-.05, .05))


@pytest.mark.parametrize('flag, expected', [(False, (0, .05)),
                                            (True, (.95, 1))])
def test_a_rate_of_none_or_all_has_a_width(flag, expected):
  mean, low, high = intervals.contrast(
      [np.full((1, 300), flag)], [np.repeat(np.arange(60), 5)], [1])
  assert mean == flag and (low, high) == pytest.approx(expected)


def test_unseen_problems_are_as_large_as_those_seen():
  # Of 100 problems of 4 hands two change, by one hand of four each.
  before = np.zeros(400, bool)
  after = before.copy()
  after[[0, 4]] = True
  given = [np.stack([after, before])], [np.repeat(np.arange(100), 4)]
  noise = intervals.unseen(*given, np.array([1., -1.]))
  assert np.unique(np.abs(noise))[1] == pytest.approx(.25 / 100)
  assert noise.std() == pytest.approx(np.sqrt(2) * .25 / 100, rel=.05)
  _, low, high = intervals.contrast(*given, [1, -1])
  assert low < 0 and high < .025


def test_small_paired_differences_are_covered():
  # 80 problems of 4 hands; 1.5 % of the problems turn a hand either way. A
  # plain bootstrap that saw none, or one, claims to know the difference.
  rng = np.random.default_rng(1)
  problems = np.repeat(np.arange(80), 4)
  hits = {'plain': 0, 'unseen': 0}
  trials = 250
  for _ in range(trials):
    before = rng.random(320) < .5
    turned = rng.random(80) < .02
    after = before.copy()
    after[::4] = np.where(turned, True, before[::4])
    truth = .02 * .5 / 4
    given = [np.stack([after, before])], [problems]
    low, high = intervals.quantiles(
        intervals.resample(*given, resamples=400) @ [1, -1])
    hits['plain'] += low <= truth <= high
    _, low, high = intervals.contrast(*given, [1, -1], resamples=400)
    hits['unseen'] += low <= truth <= high
  assert hits['unseen'] / trials > .93
  assert hits['plain'] / trials < .85


def test_paired_interval_matches_its_normal_limit():
  rng = np.random.default_rng(0)
  before = rng.random(1000) < .5
  after = np.where(rng.random(1000) < .1, True, before)
  difference = after.astype(float) - before
  mean, low, high = intervals.contrast(
      [np.stack([after, before])], [alone(1000)], [1, -1], resamples=8000)
  error = difference.std() / np.sqrt(1000)
  assert mean == pytest.approx(difference.mean())
  assert (high - low) / 2 == pytest.approx(1.96 * error, rel=.06)


def test_clustered_interval_matches_the_ratio_estimators_error():
  # Linearised standard error of a ratio of sums over problems of all sizes.
  rng = np.random.default_rng(3)
  sizes = rng.integers(1, 9, size=500)
  problems = np.repeat(np.arange(500), sizes)
  solved = rng.random(problems.size) < rng.beta(.5, .5, size=500)[problems]
  mean, low, high = intervals.contrast(
      [solved[None]], [problems], [1], resamples=8000)
  wins = np.bincount(problems, solved)
  error = np.sqrt(np.sum((wins - mean * sizes) ** 2)) / problems.size
  assert mean == pytest.approx(solved.mean())
  assert (high - low) / 2 == pytest.approx(1.96 * error, rel=.06)


@pytest.mark.parametrize('shape, count', [((1, 3), 3), ((2, 3), 4)])
def test_what_does_not_pair_is_refused(shape, count):
  with pytest.raises(ValueError, match='same hands under every condition'):
    intervals.contrast([np.ones(shape, bool)], [alone(count)], [1, -1])
