"""Each claim's rule on both sides, with made-up studies."""
import numpy as np
import pytest

from rlft.report import claims, tables

HIGH, LOW = (.5,) * 8, (.1,) * 8


@pytest.fixture
def judge(make_study):
  """judge(number, change=None, **study) -> Finding of one claim."""
  def judged(number, change=None, **study):
    found = tables.read(make_study(**{'seeds': (0,), 'count': 1000} | study))
    assert found['warnings'] == []
    if change:
      change(found)
    claim = next(c for c in claims.CLAIMS if c.number == number)
    return claim.test(found)
  return judged


def curves(ood, ids=(.2, .38, .52, .66, .78, .88, .93, .95)):
  return {'sft': (ids, ood), 'starts': {}}


def edits(change):
  """The default edits with other rates: label -> (ID, OOD)."""
  from_default = {
      'none': (.95, .10), 'interpolate 0.1': (.94, .12),
      'interpolate 0.25': (.93, .15), 'interpolate 0.5': (.85, .30),
      'interpolate 1.0': (.60, .50)} | change
  return {'starts': {}, 'edits': [
      (label, label.split()[0], label.split()[0] in (
          'none', 'interpolate', 'low_rank'), *rates, 3.,
       0. if label == 'interpolate 1.0' else 8.)
      for label, rates in from_default.items()]}


def test_there_are_twenty_claims_each_with_a_rule():
  assert [c.number for c in claims.CLAIMS] == list(range(1, 21))
  assert all(c.claim and c.accept for c in claims.CLAIMS)
  assert len({c.test for c in claims.CLAIMS}) == 20


def test_a_study_of_nothing_tests_nothing(tmp_path):
  rows = claims.table(tables.read(tmp_path))
  assert [r['number'] for r in rows] == list(range(1, 21))
  assert {r['verdict'] for r in rows} == {'not tested'}
  assert all(r['why'] and r['measured'] is None for r in rows)


def test_verdicts_are_consistent_with_their_intervals(make_study):
  for row in claims.table(tables.read(make_study(seeds=(0, 1)))):
    assert row['verdict'] in ('holds', 'fails', 'not tested')
    if row['measured'] is not None:
      low, high = row['interval']
      assert low <= row['measured'] <= high, row


@pytest.mark.parametrize('ood, verdict', [
    ((.16, .29, .40, .46, .37, .24, .12, .07), 'holds'),
    ((.10, .20, .25, .30, .35, .40, .45, .46), 'not tested'),  # no fall yet
    ((.46, .45, .40, .35, .30, .20, .10, .05), 'fails'),  # no rise
    ((.30, .31, .30, .32, .30, .31, .30, .31), 'fails')])
def test_1_rises_then_falls(judge, ood, verdict):
  assert judge(1, **curves(ood)).verdict == verdict


@pytest.mark.parametrize('ids, verdict', [
    ((.2, .3, .4, .5, .6, .7, .8, .9), 'holds'),
    ((.2, .3, .4, .8, .6, .7, .8, .9), 'fails'),  # a dip of 20 points
    ((.2, .3, .4, .5, .6, .56, .8, .9), 'fails'),  # four, not for certain
    ((.5,) * 8, 'fails')])
def test_2_id_climbs(judge, ids, verdict):
  assert judge(2, **curves(HIGH, ids)).verdict == verdict


@pytest.mark.parametrize('given, verdict', [
    ((.4, .4), 'holds'),     # all of the rise is format
    ((.2, .45), 'fails')])   # valid replies improve too
def test_3_rise_is_format(judge, given, verdict):
  first, peak = .3 * given[0], .95 * given[1]

  def change(found):
    for row in found['evals']:
      if row['eval'] == 'ood' and row['step'] in (0, 50):
        valid = .3 if row['step'] == 0 else .95
        row['outcomes'] = {'correct': row['success'], 'format': 1 - valid,
                           'wrong_value': valid - row['success']}
  ood = (first, first, first, peak, .1, .1, .1, .1)
  assert judge(3, change, **curves(ood)).verdict == verdict


def test_3_needs_a_rise(judge):
  assert judge(3, **curves((.5, *LOW[1:]))).verdict == 'not tested'


@pytest.mark.parametrize('share, verdict', [(.8, 'holds'), (.3, 'fails')])
def test_4_lock_in(judge, share, verdict):
  def change(found):
    for row in found['evals']:
      failed = 1 - row['success']
      locked = failed * (share if row['step'] == 600 else .05)
      row['outcomes'] = {'correct': row['success'], 'lock_in': locked,
                         'wrong_value': failed - locked}
  found = judge(4, change, starts={})
  assert found.verdict == verdict
  assert found.measured == pytest.approx(share, abs=.01)


def test_4_share_of_all_failures_must_rise(judge):
  def change(found):
    for row in found['evals']:
      failed = 1 - row['success']
      row['outcomes'] = {'correct': row['success'], 'lock_in': .8 * failed,
                         'wrong_value': .2 * failed}
  assert judge(4, change, starts={}).verdict == 'fails'


def test_4_counts_problems_that_go_wrong_together(judge):
  """A hundred problems of ten hands: a share of them, not of hands."""
  def change(found):
    for row in found['evals']:
      row['problems'] = np.arange(1000) // 10
      row['solved'] = np.repeat(np.arange(100) < 100 * row['success'], 10)
      failed = 1 - row['success']
      locked = failed * (.6 if row['step'] == 600 else .05)
      row['outcomes'] = {'correct': row['success'], 'lock_in': locked,
                         'wrong_value': failed - locked}
  found = judge(4, change, starts={})
  # 93 problems, not 930 hands: the share of .6 is not surely above a half.
  assert found.interval[1] - found.interval[0] == pytest.approx(
      2 * 1.96 * (.6 * .4 / 93) ** .5, rel=.1)


@pytest.mark.parametrize('least, verdict', [(400, 'holds'), (50, 'fails')])
def test_5_loss_misses_the_peak(judge, least, verdict):
  def change(found):
    for row in found['evals']:
      row['reference_nll'] = abs(row['step'] - least) + .1
  assert judge(5, change, starts={}).verdict == verdict


def test_5_needs_the_loss(judge):
  def change(found):
    for row in found['evals']:
      row['reference_nll'] = None
  assert judge(5, change, starts={}).verdict == 'not tested'


@pytest.mark.parametrize('number, start, end, verdict', [
    (6, 200, .34, 'holds'), (6, 200, .24, 'fails'), (6, 200, .14, 'fails'),
    (7, 50, .36, 'holds'), (7, 50, .46, 'fails'), (7, 50, .56, 'fails'),
    (8, 600, .05, 'holds'), (8, 600, .20, 'fails'),
    (12, 0, .12, 'holds'), (12, 0, .30, 'fails')])
def test_6_7_8_12_by_start(judge, number, start, end, verdict):
  begin = {0: .16, 50: .46, 200: .24, 600: .07}[start]

  def same_id(found):  # RL leaves every ID hand as it was
    before = {r['step']: r for r in found['evals']
              if r['role'] == 'sft' and r['eval'] == 'id'}[start]
    for row in found['evals']:
      if row['role'] == 'rl' and row['eval'] == 'id':
        row |= {k: before[k] for k in ('solved', 'success')}
  assert judge(number, same_id, starts={start: (begin, end)}
               ).verdict == verdict


def test_places_follow_the_peak_and_the_length_of_sft(judge):
  for number, start in ((6, 50), (7, 200), (8, 200), (12, 50)):
    found = judge(number, starts={start: (.3, .3)})
    assert found.verdict == 'not tested', number
    assert 'no RL run from' in found.why


@pytest.mark.parametrize('end, verdict', [(.40, 'holds'), (.60, 'fails')])
def test_9_below_the_peak(judge, end, verdict):
  assert judge(9, starts={200: (.24, end)}).verdict == verdict


@pytest.mark.parametrize('end, verdict', [(.44, 'holds'), (.30, 'fails')])
def test_10_recovery(judge, end, verdict):
  found = judge(10, starts={200: (.24, end)})
  assert found.verdict == verdict
  assert found.measured == pytest.approx((end - .24) / .22, abs=.03)


@pytest.mark.parametrize('inside, outside, verdict', [
    (.15, -.05, 'holds'), (-.05, .15, 'fails')])
def test_11_window(judge, inside, outside, verdict):
  # ID at the starts: .52 and .66 inside, .93 and .95 outside.
  rates = {20: .40, 50: .46, 400: .12, 600: .07}
  starts = {s: (r, r + (inside if s < 100 else outside))
            for s, r in rates.items()}
  assert judge(11, starts=starts).verdict == verdict


def test_11_needs_both_sides(judge):
  assert judge(11, seeds=(0, 1), starts={
      400: (.12, .2), 600: (.07, .1)}).verdict == 'not tested'


@pytest.mark.parametrize('scale, verdict', [(1., 'holds'), (9., 'fails')])
def test_13_values(judge, scale, verdict):
  def change(found):
    for row in found['rotation']:
      row['value_shift'] *= scale
  assert judge(13, change, starts={}).verdict == verdict


@pytest.mark.parametrize('angle, verdict', [
    ((.9, .2, .9), 'holds'), ((.1, .2, .9), 'fails'), ((.9, .2, .1), 'fails'),
    ((.2, .2, .2), 'fails')])
def test_14_edges(judge, angle, verdict):
  def change(found):
    rng = np.random.default_rng(0)
    for row in found['spectra']:
      null = np.full((4, 50), .15) + .01 * rng.normal(size=(4, 50))
      measured = np.repeat(angle, (5, 40, 5)) + .01 * rng.normal(size=(4, 50))
      row |= {'cosine': np.cos(measured), 'cosine_null': np.cos(null)}
  assert judge(14, change, starts={}).verdict == verdict


@pytest.mark.parametrize('diagonal, rotated, verdict', [
    (.01, .8, 'holds'), (.03, .8, 'fails'), (.01, .05, 'fails')])
def test_15_off_diagonal(judge, diagonal, rotated, verdict):
  def change(found):
    for row in found['rotation']:
      row |= {'energy_diagonal': diagonal, 'energy_rotated': rotated}
  assert judge(15, change, starts={}).verdict == verdict


@pytest.mark.parametrize('ood, verdict', [(.10, 'holds'), (.20, 'fails'),
                                          (.02, 'fails')])
def test_16_values_only(judge, ood, verdict):
  def same(found):
    rows = {r['edit']: r for r in found['restoration']}
    if ood == .10:
      rows['values top=1.0'] |= {
          k: rows['none'][k] for k in ('ood', 'ood_solved')}
  assert judge(16, same, **edits({'values top=1.0': (.95, ood)})
               ).verdict == verdict


@pytest.mark.parametrize('rates, verdict', [
    ((.90, .45), 'holds'),    # recovers .875, far above the path at ID .90
    ((.65, .45), 'fails'),    # as much, but at the ID of the path
    ((.90, .30), 'fails')])   # above the path, but half of the loss
def test_17_directions(judge, rates, verdict):
  assert judge(17, **edits({'vectors top=0.2': rates})).verdict == verdict


def test_17_other_controls_count(judge):
  found = judge(17, **edits({'vectors top=0.2': (.90, .45),
                             'low_rank k=8': (.91, .45)}))
  assert found.verdict == 'fails'


@pytest.mark.parametrize('first, second, verdict', [
    (.45, .15, 'holds'), (.45, .45, 'fails'), (.25, .15, 'fails')])
def test_18_first_quarter(judge, first, second, verdict):
  assert judge(18, **edits({
      'revert layers=0:0.25': (.9, first),
      'revert layers=0.25:0.5': (.9, second)})).verdict == verdict


@pytest.mark.parametrize('rates, verdict', [
    ((.90, .10), 'holds'), ((.90, .40), 'fails'), ((.90, .34), 'fails'),
    ((.99, .10), 'not tested')])  # no control keeps as much ID
def test_19_imposing_directions(judge, rates, verdict):
  def of_rl(found):
    for row in found['restoration']:
      row['target'] = 'rl'
  study = edits({'none': (.95, .40), 'interpolate 0.1': (.94, .38),
                 'interpolate 0.25': (.93, .36), 'interpolate 0.5': (.9, .34),
                 'interpolate 1.0': (.8, .32), 'vectors top=0.2': rates})
  assert judge(19, **study).verdict == 'not tested'
  assert judge(19, of_rl, **study).verdict == verdict


@pytest.mark.parametrize('last, verdict', [(.46, 'holds'), (.30, 'fails')])
def test_20_diversity(judge, last, verdict):
  def mixed(found):
    rows = [r | {'role': 'sft_mixed'} for r in found['evals']
            if r['role'] == 'sft']
    peak = next(r for r in rows if r['eval'] == 'ood' and r['step'] == 50)
    for row in rows:
      if row['step'] > 50 and row['eval'] == 'ood':
        kept = peak['solved'].copy()
        kept[np.flatnonzero(kept)[round(1000 * last):]] = False
        row |= {'solved': kept, 'success': float(kept.mean())}
    found['evals'] += rows
  assert judge(20, starts={}).verdict == 'not tested'
  assert judge(20, mixed, starts={}).verdict == verdict
