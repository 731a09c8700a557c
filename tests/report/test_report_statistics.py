"""Pooling, pairing and the control at equal ID, on cases done by hand."""
import numpy as np
import pytest

from rlft.ops import intervals
from rlft.report import edits, statistics


def row(step, bits, seed=0, name='ood', role='sft', from_step=None):
  bits = np.array(bits, bool)
  return {'role': role, 'seed': seed, 'from_step': from_step, 'step': step,
          'eval': name, 'n': bits.size, 'success': float(bits.mean()),
          'solved': bits}


def test_counts_are_summed_over_seeds():
  found = statistics.split([row(0, [1] * 3 + [0] * 7), row(0, [1] * 20, 1)])
  low, high = intervals.wilson(23, 30)
  assert found == {'n': 30, 'success': pytest.approx(23 / 30), 'low': low,
                   'high': high, 'seeds': 2}
  assert statistics.split([]) is None


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
  assert statistics.difference({0: np.ones(4, bool)},
                               {0: np.ones(5, bool)}) is None
  assert statistics.difference({0: np.ones(4, bool)},
                               {1: np.ones(4, bool)}) is None
  found = statistics.difference({0: np.array([1, 1, 0, 0], bool)},
                                {0: np.array([1, 0, 0, 0], bool)})
  assert found['mean'] == .25 and found['low'] == 0 and found['n'] == 4


def test_differences_are_meaned_over_seeds():
  full, none = np.ones(10, bool), np.zeros(10, bool)
  found = statistics.difference({0: full, 1: none}, {0: none, 1: none})
  assert (found['mean'], found['low'], found['high']) == (.5, 0, 1)


def test_a_ratio_of_an_unsure_whole_has_no_interval():
  bits = np.arange(40) < 20
  other = np.roll(bits, 1)
  assert statistics.ratio([{0: bits}, {0: other}], [1, 0], [1, -1]) is None
  found = statistics.ratio([{0: np.arange(40) < 10}, {0: bits}],
                           [1, 0], [0, 1])
  assert found['mean'] == .5 and found['low'] < .5 < found['high']


def test_the_best_of_many_is_not_flattered():
  rng = np.random.default_rng(0)
  noise = {step: {0: rng.random(400) < .3} for step in range(30)}
  rates = [float(bits[0].mean()) for bits in noise.values()]
  fitted = statistics.best_elsewhere(noise)[0].mean()
  assert max(rates) > .33
  assert fitted < max(rates) and abs(fitted - .3) < .05


def test_the_cross_fitted_best_takes_the_other_half():
  # Step 1 solves the odd hands only, step 2 the even ones only: each half
  # chooses the step that fails on the other.
  odd = np.arange(10) % 2 == 1
  fitted = statistics.best_elsewhere({1: {0: odd}, 2: {0: ~odd}})
  assert not fitted[0].any()


@pytest.mark.parametrize('wanted, expected', [
    (.9, .1),      # the first point itself
    (.7, .25),     # half way to the second
    (.5, .4),      # the second point
    (.2, .4),      # the third is worse: the second keeps more ID as well
    (.95, .1)])    # beyond the path: the point that keeps most
def test_the_control_at_equal_id(wanted, expected):
  rates_id = np.array([[.9, .5, .1]])
  rates_ood = np.array([[.1, .4, .3]])
  found = edits.crossing(
      rates_id, rates_ood, np.array([wanted]), path=[0, 1, 2])
  assert found == pytest.approx([expected])


def test_a_single_control_counts_only_at_its_id():
  rates_id = np.array([[.9, .5, .6]])
  rates_ood = np.array([[.1, .1, .8]])
  for wanted, expected in ((.6, .8), (.61, .1)):
    assert edits.crossing(
        rates_id, rates_ood, np.array([wanted]), path=[0, 1],
        points=[2]) == pytest.approx([expected])


def edit_row(label, id_rate, ood_rate, to_base, control=False, seed=0):
  splits = {name: np.arange(100) < round(100 * rate)
            for name, rate in (('id', id_rate), ('ood', ood_rate))}
  return {'edit': label, 'kind': label.split()[0], 'control': control,
          'target': 'sft', 'seed': seed, 'distance_to_sft': 1.,
          'distance_to_base': to_base} | {
              f'{k}_solved': b for k, b in splits.items()} | {
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


def test_the_path_is_ordered_and_ends_at_the_base():
  rows = [edit_row('interpolate 1.0', .5, .5, 0., True),
          edit_row('interpolate 0.25', .8, .2, 3., True),
          edit_row('interpolate 0.5 layers=0:0.25', .8, .2, 3., True),
          edit_row('interpolate distance=2.0', .8, .2, 3., True),
          edit_row('none', .9, .1, 4., True)]
  found = edits.edits(rows)
  assert edits.path(found) == ['none', 'interpolate 0.25', 'interpolate 1.0']
  assert edits.base_end(found).label == 'interpolate 1.0'


def test_labels_are_parsed():
  rows = [edit_row('revert layers=0.25:0.5', .9, .1, 1.),
          edit_row('vectors top=0.2 raw', .9, .1, 1.),
          edit_row('noise 0.25', .9, .1, 1.)]
  revert, vectors, noise = edits.edits(rows).values()
  assert edits.layers(revert) == (.25, .5) and edits.layers(noise) is None
  assert vectors.options == {'top': '0.2', '': 'raw'}
  assert edits.amount(vectors, 'top') == .2
  assert edits.amount(noise) == .25
