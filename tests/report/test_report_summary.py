"""summary.json: its keys, its pooled numbers, and that it is honest JSON."""
import json
import math

import pytest

from rlft import report
from rlft.ops import intervals


@pytest.fixture
def summary(written):
  return json.loads(
      (written / 'summary.json').read_text(), parse_constant=fail)


def fail(name):
  raise AssertionError(f'{name} is not JSON')


def test_the_promised_keys(summary):
  assert {'sft', 'rl', 'rotation', 'restoration', 'wall_seconds', 'model',
          'claims', 'seeds', 'by_seed'} <= set(summary)
  assert summary['model'] == {'name': 'transformer', 'parameters': 870_000}
  assert summary['seeds'] == [0, 1]
  for curve in (summary['sft']['curve'], summary['rl'][0]['curve']):
    assert set(curve[0]) == {'step', 'id', 'ood'}
    assert {'n', 'success', 'low', 'high'} <= set(curve[0]['id'])
  assert [r['from_step'] for r in summary['rl']] == [0, 50, 200, 300, 600]
  assert {'layer', 'module', 'angle_top_rad', 'angle_null_rad',
          'value_shift', 'value_shift_null'} <= set(summary['rotation'][0])
  assert {'edit', 'id', 'ood', 'distance_to_sft', 'distance_to_base'} <= set(
      summary['restoration'][0])
  assert {'number', 'claim', 'accept_rule', 'measured', 'interval', 'verdict',
          'why'} <= set(summary['claims'][0])
  assert len(summary['claims']) == 20


def test_counts_are_pooled_over_seeds(summary, written):
  rows = [json.loads(line) for seed in (0, 1) for line in
          (written / f'sft_{seed}' / 'evals.jsonl').read_text().split('\n')
          if line]
  hits = sum(round(r['success'] * r['n']) for r in rows
             if r['step'] == 100 and r['eval'] == 'ood')
  point = next(p for p in summary['sft']['curve'] if p['step'] == 100)['ood']
  low, high = intervals.wilson(hits, 400)
  assert point | {'cluster_low': None, 'cluster_high': None} == {
      'n': 400, 'success': hits / 400, 'low': low, 'high': high, 'seeds': 2,
      'problems': 100, 'cluster_low': None, 'cluster_high': None}
  assert point['cluster_low'] < low and high < point['cluster_high']
  alone = summary['by_seed']['1']['sft']['curve'][4]
  assert (alone['step'], alone['ood']['n']) == (100, 200)


def test_the_peak_and_what_is_lost(summary):
  sft = summary['sft']
  assert sft['peak_ood_step'] == 50 and sft['last_step'] == 600
  lost = sft['forgetting']
  assert lost['mean'] == pytest.approx(.46 - .07)
  assert lost['low'] < .39 < lost['high'] and lost['seeds'] == 2


def test_rotation_rows_are_averaged(summary, written):
  rows = [json.loads((written / f'rotation_{seed}' / 'rotation.json')
                     .read_text())['rows'] for seed in (0, 1)]
  for found, one, two in zip(summary['rotation'], *rows, strict=True):
    assert (found['layer'], found['module']) == (one['layer'], one['module'])
    assert found['angle_top_rad'] == pytest.approx(
        (one['angle_top_rad'] + two['angle_top_rad']) / 2)
    assert found['seeds'] == 2


def test_edits_are_matched_by_label(summary):
  rows = {r['edit']: r for r in summary['restoration']}
  edit = rows['vectors top=0.2']
  assert edit['ood']['n'] == 400 and edit['distance_to_sft'] == 3.2
  assert edit['ood_regain']['mean'] == pytest.approx(.22 - .07)
  assert edit['id_loss']['mean'] == pytest.approx(.95 - .93)
  assert rows['none']['ood_regain'] is None  # of itself


def test_seconds_are_flat_and_have_no_total(summary, written):
  stages = json.loads((written / 'stages.json').read_text())
  assert summary['wall_seconds'] == {
      s['name']: s['seconds'] for s in stages if s['seconds'] is not None}


def test_non_finite_numbers_become_null_with_a_word(study):
  path = study / 'rotation_0' / 'rotation.json'
  found = json.loads(path.read_text())
  found['rows'][0]['value_shift'] = math.nan
  found['rows'][1]['stable_rank'] = math.inf
  path.write_text(json.dumps(found))
  config = json.loads((study / 'config.json').read_text())
  (study / 'config.json').write_text(json.dumps(config | {'clip': math.inf}))
  page = report.write(study)
  for text in ((study / 'summary.json').read_text(),
               page.read_text().split('id="data">')[1].split('<')[0]):
    json.loads(text, parse_constant=fail)
  assert '"clip_why": "not a finite number (inf)"' in text


def test_clean_leaves_everything_else():
  value = {'a': [1, None, 'x', {'b': .5}], 'c': math.nan}
  assert report.summary.clean(value) == {
      'a': [1, None, 'x', {'b': .5}], 'c': None,
      'c_why': 'not a finite number (nan)'}


def test_the_same_study_gives_the_same_numbers(written, study):
  report.write(study)
  assert (study / 'summary.json').read_text() == (
      written / 'summary.json').read_text()


def test_the_report_is_no_stage(make_study):
  study = make_study(seeds=(0,), starts={})
  report.write(study)
  first = (study / 'summary.json').read_text()
  assert 'report' not in json.loads(first)['wall_seconds']
  stages = json.loads((study / 'stages.json').read_text())
  stages[-1] |= {'seconds': 3.}
  (study / 'stages.json').write_text(json.dumps(stages))
  report.write(study)
  assert (study / 'summary.json').read_text() == first
