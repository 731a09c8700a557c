"""Pooling, pairing and the control at equal ID, on cases done by hand."""
import numpy as np
import pytest

from rlft.ops import intervals
from rlft.report import edits, pairs, statistics


def row(step, bits, seed=0, name='ood', role='sft', from_step=None):
  bits = np.array(bits, bool)
  return {'role': role, 'seed': seed, 'from_step': from_step, 'step': step,
          'eval': name, 'n': bits.size, 'success': float(bits.mean()),
          'solved': bits, 'problems': None}


def hands(bits, problems=None):
  return pairs.Hands(np.array(bits, bool), problems)


def test_counts_are_summed_over_seeds():
  found = statistics.split([row(0, [1] * 3 + [0] * 7), row(0, [1] * 20, 1)])
  low, high = intervals.wilson(23, 30)
  assert found == {'n': 30, 'success': pytest.approx(23 / 30), 'low': low,
                   'high': high, 'seeds': 2, 'problems': None,
                   'cluster_low': None, 'cluster_high': None}
  assert statistics.split([]) is None


def test_a_rate_has_the_interval_of_its_problems_beside_wilsons():
  # 120 hands of 20 problems, all hands of a problem alike.
  bits = np.repeat(np.arange(20) % 2 == 0, 6)
  numbers = np.repeat(np.arange(20), 6)
  found = statistics.split([
      row(0, bits, seed) | {'problems': numbers} for seed in (0, 1)])
  assert (found['n'], found['problems'], found['seeds']) == (240, 20, 2)
  width = found['cluster_high'] - found['cluster_low']
  # 20 coins, not 240: whatever the number of seeds that saw them.
  assert width == pytest.approx(2 * 1.96 * .5 / np.sqrt(20), rel=.15)
  assert width > 3 * (found['high'] - found['low'])


def test_the_curve_has_a_hole_where_nothing_was_measured():
  rows = [row(0, [1, 0]), row(5, [1, 1]), row(5, [0, 1], name='id')]
  curve = statistics.curve(rows)
  assert [p['step'] for p in curve] == [0, 5]
  assert curve[0]['id'] is None and curve[1]['id']['success'] == .5


def test_the_peak_is_the_first_best_of_the_steps_all_seeds_have():
  rows = [row(s, [r > i for i in range(10)], seed)
          for seed in (0, 1) for s, r in ((0, 2), (1, 7), (2, 7), (3, 1))]
  rows.append(row(9, [1] * 10))  # one seed alone went on
  assert statistics.peak_step(rows) == 1
  assert statistics.common_steps(rows, 'ood') == [0, 1, 2, 3]


def test_a_difference_needs_the_same_hands():
  ones = np.ones(4, bool)
  assert pairs.difference({0: hands(ones)}, {0: hands([1] * 5)}) is None
  assert pairs.difference({0: hands(ones)}, {1: hands(ones)}) is None
  assert pairs.difference({0: hands(ones, np.arange(4))},
                          {0: hands(ones, np.arange(4) // 2)}) is None
  found = pairs.difference({0: hands([1, 1, 0, 0])}, {0: hands([1, 0, 0, 0])})
  assert found['mean'] == .25 and found['low'] < 0 < found['high']
  assert (found['n'], found['problems']) == (4, 4)


def test_problems_that_one_side_recorded_are_those_of_both():
  numbers = np.repeat(np.arange(5), 4)
  bits = np.arange(20) < 8
  with_them, without = {0: hands(bits, numbers)}, {0: hands(~bits)}
  assert pairs.difference(with_them, without)['problems'] == 5
  assert pairs.difference(without, without)['problems'] == 20


def test_differences_are_meaned_over_seeds():
  full, none = hands(np.ones(10)), hands(np.zeros(10))
  found = pairs.difference({0: full, 1: none}, {0: none, 1: none})
  assert (found['mean'], found['high'], found['problems']) == (.5, 1, 10)
  assert -.3 < found['low'] < 0


def test_a_ratio_of_an_unsure_whole_has_no_interval():
  bits = np.arange(40) < 20
  other = np.roll(bits, 1)
  assert pairs.ratio([{0: hands(bits)}, {0: hands(other)}],
                     [1, 0], [1, -1]) is None
  found = pairs.ratio([{0: hands(np.arange(40) < 10)}, {0: hands(bits)}],
                      [1, 0], [0, 1])
  assert found['mean'] == .5 and found['low'] < .5 < found['high']


def test_the_best_of_many_is_not_flattered():
  rng = np.random.default_rng(0)
  noise = {step: {0: hands(rng.random(400) < .3)} for step in range(30)}
  rates = [float(bits[0].solved.mean()) for bits in noise.values()]
  fitted = pairs.best_elsewhere(noise)[0].solved.mean()
  assert max(rates) > .33
  assert fitted < max(rates) and abs(fitted - .3) < .05


@pytest.mark.parametrize('size', [1, 2])
def test_the_cross_fitted_best_takes_the_other_half(size):
  # Step 1 solves the odd problems only, step 2 the even ones only: each half
  # chooses the step that fails on the other. Halves of hands would not.
  numbers = np.arange(20) // size
  odd = numbers % 2 == 1
  fitted = pairs.best_elsewhere({
      1: {0: hands(odd, numbers)}, 2: {0: hands(~odd, numbers)}})
  assert not fitted[0].solved.any()


def test_the_design_effect_is_the_hands_of_a_problem_that_agree():
  numbers = np.repeat(np.arange(60), 5)
  alike = {0: hands(np.repeat(np.arange(60) % 2 == 0, 5), numbers)}
  apart = {0: hands(np.arange(300) % 2 == 0, np.arange(300))}
  assert pairs.design_effect(alike) == pytest.approx(5, rel=.12)
  assert pairs.design_effect(apart) == pytest.approx(1, rel=.12)
  assert pairs.design_effect({0: hands(np.ones(300), numbers)}) == 5


def test_a_unit_is_drawn_for_all_seeds_at_once():
  # Three seeds that measured the same matrices are not three times as many.
  rng = np.random.default_rng(0)
  values = rng.normal(size=30)
  one = pairs.mean([(0, f'{i}', v) for i, v in enumerate(values)])
  three = pairs.mean([(seed, f'{i}', v) for seed in range(3)
                      for i, v in enumerate(values)])
  assert (three['mean'], three['low'], three['high']) == pytest.approx(
      (one['mean'], one['low'], one['high']))
  error = values.std() / np.sqrt(30)
  assert (one['high'] - one['low']) / 2 == pytest.approx(1.96 * error, rel=.1)
  assert (three['seeds'], three['n']) == (3, 90)


def control(rates_id, rates_ood, wanted, **which):
  """OOD rate of the control at equal ID, and whether there is one."""
  mix, bracketed = edits.crossing(
      rates_id, rates_ood, np.array([wanted]), **which)
  assert mix.sum() == pytest.approx(1)
  return float(np.sum(mix * rates_ood)), bool(bracketed[0])


@pytest.mark.parametrize('wanted, expected', [
    (.9, .1),      # the first point itself
    (.7, .25),     # half way to the second
    (.5, .4),      # the second point
    (.2, .4)])     # the third is worse: the second keeps more ID as well
def test_the_control_at_equal_id(wanted, expected):
  found = control(np.array([[.9, .5, .1]]), np.array([[.1, .4, .3]]), wanted,
                  path=[0, 1, 2])
  assert found == (pytest.approx(expected), True)


@pytest.mark.parametrize('wanted', [.95, .05])
def test_beyond_the_controls_there_is_none_at_equal_id(wanted):
  rates = np.array([[.9, .5, .1]]), np.array([[.1, .4, .3]])
  assert not control(*rates, wanted, path=[0, 1, 2])[1]


def test_a_single_control_counts_only_at_its_id():
  rates = np.array([[.9, .5, .6]]), np.array([[.1, .1, .8]])
  for wanted, expected in ((.6, .8), (.61, .1)):
    assert control(*rates, wanted, path=[0, 1], points=[2]) == (
        pytest.approx(expected), True)


def edit_row(label, id_rate, ood_rate, to_base, control=False, seed=0):
  splits = {name: np.arange(100) < round(100 * rate)
            for name, rate in (('id', id_rate), ('ood', ood_rate))}
  return {'edit': label, 'kind': label.split()[0], 'control': control,
          'target': 'sft', 'seed': seed, 'distance_to_sft': 10. - to_base,
          'distance_to_base': to_base} | {
              f'{k}_solved': b for k, b in splits.items()} | {
              f'{k}_problems': None for k in splits} | {
                  k: {'n': 100, 'success': float(b.mean())}
                  for k, b in splits.items()}


def test_edits_are_matched_by_label_and_compared_with_none():
  rows = [edit_row('none', .9, .1, 4.), edit_row('none', .7, .1, 6., seed=1),
          edit_row('vectors top=0.2', .8, .3, 2.),
          edit_row('vectors top=0.2', .7, .2, 3., seed=1),
          edit_row('interpolate 0.5', .7, .3, 2., True),
          edit_row('interpolate 0.5', .5, .3, 3., True, seed=1)]
  found = {r['edit']: r for r in edits.compare(rows)}
  edit = found['vectors top=0.2']
  assert (edit['id']['n'], edit['id']['success']) == (200, .75)
  assert edit['distance_to_base'] == 2.5
  assert edit['ood_regain']['mean'] == pytest.approx(.15)
  assert edit['id_loss']['mean'] == pytest.approx(.05)
  # Mean ID .75; the path runs from (.8, .1) to (.6, .3): control .15.
  assert edit['over_interpolation']['mean'] == pytest.approx(.1)
  assert found['interpolate 0.5']['over_interpolation'] is None


def test_the_path_is_ordered_by_distance_and_ends_at_the_base():
  rows = [edit_row('interpolate 1.0', .5, .5, 0., True),
          edit_row('interpolate 0.25', .8, .2, 3., True),
          edit_row('interpolate 0.5 layers=0:0.25', .8, .2, 3., True),
          edit_row('interpolate match=vectors:top=0.2', .8, .2, 3.5, True),
          edit_row('interpolate match=revert:layers=0:0.25', .8, .2, 2., True),
          edit_row('noise match=vectors:top=0.2', .8, .2, 8., True),
          edit_row('none', .9, .1, 4., True)]
  found = edits.edits(rows)
  assert edits.path(found) == [
      'none', 'interpolate match=vectors:top=0.2', 'interpolate 0.25',
      'interpolate match=revert:layers=0:0.25', 'interpolate 1.0']
  assert edits.base_end(found).label == 'interpolate 1.0'


def test_an_edit_is_paired_with_the_controls_that_go_as_far():
  rows = [edit_row('none', .9, .1, 4.),
          edit_row('vectors top=0.2', .8, .4, 2.),
          edit_row('vectors top=0.2 layers=0:0.25', .8, .4, 2.),
          edit_row('interpolate match=vectors:top=0.2', .7, .3, 2., True),
          edit_row('noise match=vectors:top=0.2', .5, .05, 9., True),
          edit_row('noise match=vectors:top=0.2:layers=0:0.25', .5, .1, 9.,
                   True),
          edit_row('interpolate 0.5', .7, .3, 2., True)]
  found = {r['edit']: r for r in edits.compare(rows)}
  one, two = found['vectors top=0.2']['matched']
  assert one['control'] == 'interpolate match=vectors:top=0.2'
  assert one['ood']['mean'] == pytest.approx(.1)
  assert one['id']['mean'] == pytest.approx(.1)
  assert two['ood']['mean'] == pytest.approx(.35)
  part, = found['vectors top=0.2 layers=0:0.25']['matched']
  assert part['ood']['mean'] == pytest.approx(.3)
  assert found['none']['matched'] == []


@pytest.mark.parametrize('keeps, compared', [
    (.72, True), (.99, False), (.4, False), (.95, False)])
def test_equal_id_needs_controls_on_both_sides(keeps, compared):
  # The path keeps ID from .95 down to .5. At .95 itself many draws of other
  # solved hands lie above it.
  turned = edit_row('vectors top=0.2', keeps, .4, 2.)
  turned['id_solved'] = turned['id_solved'][::-1]
  rows = [edit_row('none', .95, .1, 4.), turned,
          edit_row('interpolate 0.5', .5, .3, 2., True)]
  found = {r['edit']: r for r in edits.compare(rows)}['vectors top=0.2']
  assert (found['over_interpolation'] is not None) == compared
  assert ('over_interpolation_why' in found) != compared
  best = edits.best(rows)
  assert (best is not None) == compared


def test_labels_are_parsed():
  rows = [edit_row('revert layers=0.25:0.5', .9, .1, 1.),
          edit_row('vectors top=0.2 raw', .9, .1, 1.),
          edit_row('noise 0.25', .9, .1, 1.)]
  revert, vectors, noise = edits.edits(rows).values()
  assert edits.layers(revert) == (.25, .5) and edits.layers(noise) is None
  assert vectors.options == {'top': '0.2', '': 'raw'}
  assert edits.amount(vectors, 'top') == .2
  assert edits.amount(noise) == .25
