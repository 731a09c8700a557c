"""The tables beside the curves: the whole panel, PPO's own numbers, floors."""
import json
import re

import numpy as np
import pytest

from rlft import report
from rlft.ops import pass_at_k
from rlft.report import (
  branches,
  edits,
  heatmap,
  optimisation,
  page,
  panel,
  profile,
  summary,
  tables,
  timing,
)

SMALL = {'seeds': (0,), 'starts': {50: (.46, .36)}}


def rewrite(path, change):
  """Every row of a file of rows through `change`."""
  rows = [json.loads(line) for line in path.read_text().split('\n') if line]
  path.write_text(''.join(json.dumps(change(row)) + '\n' for row in rows))


def held_near(study, seed=0, start=200):
  """Turns one RL run into one with a KL term."""
  stages = json.loads((study / 'stages.json').read_text())
  for stage in stages:
    if stage['name'] == f'rl_{seed}_{start}':
      stage['role'] = 'rl_kl'
  (study / 'stages.json').write_text(json.dumps(stages))
  return tables.read(study)


def test_the_panel_is_reported_where_it_was_measured(study):
  found = tables.read(study)
  steps = panel.by_step(found)
  last = steps[-1]
  assert last['step'] == 600
  assert {f'{s}_{way}' for s in ('id', 'ood') for way in (
      'sampled', 'tries5', 'independent5')} <= set(last['success'])
  rows = [r for r in found['evals'] if r['eval'] == 'id_sampled']
  assert last['success']['id_sampled']['success'] == pytest.approx(
      np.mean([r['success'] for r in rows]))
  gap = last['differences']['id']['sampled_minus_greedy']
  assert gap['mean'] == pytest.approx(-.05) and gap['high'] < 0
  assert steps[0]['differences']['id']['sampled_minus_greedy'] is None
  assert last['losses']['number_nll']['ood'] == pytest.approx(.9)
  assert set(steps[0]['success']) == {'id', 'ood'}


def test_pass_at_k_stands_on_single_samples(study):
  found = tables.read(study)
  rows = [r for r in found['evals'] if r['eval'] == 'ood_independent5']
  told = panel.by_step(found)[-1]['pass_at_k']['ood']
  assert [p['k'] for p in told] == [1, 2, 3, 4, 5]
  assert [p['mean'] for p in told] == pytest.approx(np.mean([
      pass_at_k.estimate(r['wins']).mean(axis=1) for r in rows], axis=0))
  # pass@5 of five samples is success, pass@1 their mean.
  assert told[4]['mean'] == pytest.approx(
      np.mean([r['success'] for r in rows]))
  assert all(p['low'] < p['mean'] < p['high'] for p in told)
  assert told[0]['problems'] == 100


def test_majorities_are_meaned_over_seeds_where_they_were_voted(study):
  for seed in (0, 1):
    told = [{'k': 1, 'mean': .2}, {'k': 4, 'mean': .5 + seed / 10},
            {'k': 5 + seed, 'mean': .6}]
    vote = lambda row, told=told: row | (
        {'majority_at_k': told} if row['eval'] == 'id_independent5' else {})
    rewrite(study / f'sft_{seed}' / 'evals.jsonl', vote)
  last = panel.by_step(tables.read(study))[-1]
  assert last['majority_at_k']['id'] == [
      {'k': 1, 'mean': .2}, {'k': 4, 'mean': pytest.approx(.55)}]
  assert last['majority_at_k']['ood'] is None
  odd = [{'majority_at_k': value} for value in (
      [{'k': 1}, {'k': 2, 'mean': 'x'}, 3], 'all')]
  assert panel.votes(odd) is panel.votes([]) is None


def test_only_losses_that_were_measured_are_shown(study):
  shown = lambda: [row['key'] for row in panel.figure(
      tables.read(study))['losses']]
  assert shown() == ['reference_nll', 'number_nll']
  rewrite(study / 'sft_0' / 'evals.jsonl', lambda row: row | {
      'kl_to_base_fixed': row['step'] / 100})
  assert shown()[2:] == ['kl_to_base_fixed']


def test_without_single_samples_there_is_pass_at_5_only(study):
  for seed in (0, 1):
    rewrite(study / f'sft_{seed}' / 'evals.jsonl',
            lambda row: {k: v for k, v in row.items() if k != 'wins'})
  last = panel.by_step(tables.read(study))[-1]
  assert last['pass_at_k'] == {'id': None, 'ood': None}
  assert last['success']['ood_independent5']['n'] == 400


def test_wins_that_disagree_are_not_trusted(study):
  path = study / 'sft_0' / 'evals.jsonl'
  rewrite(path, lambda row: row | (
      {'wins': ['00' * 25] * 5} if row['eval'] == 'id_independent5' else {}))
  found = tables.read(study)
  assert len(found['warnings']) == 1 and 'wins of' in found['warnings'][0]
  last = panel.by_step(found)[-1]
  assert last['pass_at_k']['id'] is None and last['pass_at_k']['ood']


def test_problems_that_cannot_be_are_said(study):
  rewrite(study / 'sft_0' / 'evals.jsonl',
          lambda row: row | {'problems': [0, 1]})
  said = tables.read(study)['warnings']
  assert 'not 200 numbers' in said[0]
  assert said[-1].startswith('1 stage did not record which hands')


def test_hands_without_problems_are_said_to_count_as_independent(study):
  for path in study.glob('*/*.jsonl'):
    rewrite(path, lambda row: {
        k: v for k, v in row.items() if 'problems' not in k})
  report.write(study)
  found = json.loads((study / 'summary.json').read_text())
  assert any('count hands as independent' in w for w in found['warnings'])
  point = found['sft']['curve'][0]['ood']
  assert point['problems'] is point['cluster_low'] is None
  assert found['sft']['forgetting']['problems'] == 200


def test_figures_draw_the_clustered_interval():
  rate = {'success': .5, 'low': .4, 'high': .6, 'cluster_low': .3,
          'cluster_high': .7}
  assert page.drawn({'points': [rate]}) == {'points': [rate | {
      'low': .3, 'high': .7, 'wilson': [.4, .6]}]}
  bare = rate | {'cluster_low': None, 'cluster_high': None}
  assert page.drawn([bare, {'mean': 1, 'low': 0, 'high': 2}]) == [
      bare, {'mean': 1, 'low': 0, 'high': 2}]


def test_ppo_is_told_by_its_start_and_its_end(study):
  def change(row):
    share = row['step'] / 60
    return row | {'explained_variance': -1 + share, 'success': .5,
                  'zero_spread': .25, 'truncated': 0.}
  for seed in (0, 1):
    rewrite(study / f'rl_{seed}_200' / 'metrics.jsonl', change)
  run = next(r for r in optimisation.runs(tables.read(study))
             if r['from_step'] == 200)
  steps = np.arange(0, 61, 2)
  late = -1 + steps[-round(.25 * steps.size):] / 60
  assert (run['role'], run['updates'], run['seeds']) == ('rl', 60, 2)
  assert run['measures']['explained_variance'] == {
      'first': -1, 'last': pytest.approx(late.mean())}
  assert run['measures']['success'] == {'first': .5, 'last': .5}
  assert set(run['measures']) == set(optimisation.COLUMNS)


def test_seconds_are_told_by_phase(study):
  rewrite(study / 'rl_0_200' / 'metrics.jsonl', lambda row: row | {
      'update_seconds': 1., 'rollout_seconds': 2., 'wall_seconds': 3.,
      'reward_seconds': None})
  bars = {bar['name']: bar['phases']
          for bar in timing.figure(tables.read(study))['bars']}
  assert bars.pop('rl_0_200') == [
      {'phase': 'rollout', 'seconds': 62.}, {'phase': 'update', 'seconds': 31.}]
  assert not any(bars.values())


def test_rl_held_near_its_start_stands_beside_rl(study):
  found = held_near(study)
  numbers = summary.sections(found)
  assert [r['from_step'] for r in numbers['rl_kl']] == [200]
  assert numbers['rl_kl'][0]['effect']['ood']['seeds'] == 1
  rows = branches.figure(found)['rows']
  assert [r['label'] for r in rows] == [
      'base', 'step 50', 'step 200', 'step 200, KL term', 'step 300',
      'step 600']
  # The run of the other seed is all that is left of RL from that step.
  assert [r['ood']['end']['n'] for r in rows[2:4]] == [200, 200]
  assert {(r['role'], r['from_step']) for r in optimisation.runs(found)} == {
      ('rl', s) for s in (0, 50, 200, 300, 600)} | {('rl_kl', 200)}


def test_another_objective_is_not_called_sft(make_study):
  study = make_study(**SMALL)
  (study / 'sft_0' / 'config.json').write_text(
      json.dumps({'objective': {'name': 'dft'}}))
  text = report.write(study).read_text()
  found = json.loads((study / 'summary.json').read_text())
  assert found['sft']['objective'] == 'dft'
  content = json.loads(text.split('id="data">')[1].split('</script>')[0])
  assert content['objective'] == 'dft'
  assert 'over dft steps' in content['figures']['curves']['title']
  assert 'at dft step 50' in content['findings'][0]['sentence']
  assert 'dft peak' in content['findings'][2]['sentence']
  assert not [c['why'] for c in found['claims'] if 'SFT' in c['why']]
  assert not re.search('SFT (step|peak|ID)', json.dumps(content['figures']))


@pytest.mark.parametrize('study_of, said', [
    (dict(count=64, seeds=(0,), starts={}), '64 hands a rate measure nothing'),
    (dict(count=400, seeds=(0,), starts={}), None)])
def test_a_trial_run_says_that_it_measures_nothing(make_study, study_of, said):
  path = make_study(**study_of)
  report.write(path)
  found = json.loads((path / 'summary.json').read_text())
  assert page.trial(found) == said
  assert page.trial(found | {'sft': found['sft'] | {'last_step': 6}}).endswith(
      '6 training steps measure nothing')


def test_the_title_names_task_variant_and_size(make_study):
  study = make_study(**SMALL)
  config = json.loads((study / 'config.json').read_text())
  (study / 'config.json').write_text(json.dumps(
      config | {'name': 'GeneralPoints, demo'}))
  (study / 'command.txt').write_text(
      'rlft run --config=configs/general_points/demo.py:small,full --run_dir=x')
  text = report.write(study).read_text()
  assert ('<title>GeneralPoints, demo, demo.py:small,full, transformer, '
          '0.87 M parameters</title>') in text


def test_warnings_go_to_standard_error_too(make_study, capsys):
  study = make_study(**SMALL)
  report.write(study)
  assert capsys.readouterr().err == ''
  path = study / 'rl_0_50' / 'evals.jsonl'
  path.write_text(path.read_text()[:-30])
  report.write(study)
  assert 'rlft: warning: rl_0_50/evals.jsonl: line 8' in capsys.readouterr().err


def test_the_floor_is_shown_where_it_was_measured(study):
  found = tables.read(study)
  first = heatmap.figure(found)
  assert set(first['quantities']) == {'angle', 'values', 'diagonal'}
  grids = first['comparisons'][0]['grids']
  assert grids['angle']['floor'][0][0] == pytest.approx(np.degrees(1e-4))
  assert 'floor' not in grids['diagonal']
  for row in found['rotation']:
    row |= {'energy_rotated_null': .9, 'energy_rotated_floor': .001}
  grids = heatmap.figure(found)['comparisons'][0]['grids']
  assert grids['rotated']['floor'][3][6] == pytest.approx(.1)
  assert grids['rotated']['null'][3][6] == pytest.approx(90)


def test_angle_curves_have_the_lines_that_were_written(study):
  found = tables.read(study)
  assert [s['key'] for s in profile.figure(found)['series']] == ['', '_null']
  assert profile.figure(found)['by_top'] == []
  for row in found['spectra']:
    row |= {f'angle_by_top{end}': np.full((4, 2), angle) for end, angle in (
        ('', .2), ('_null', .3), ('_floor', .01))}
  found['spectra'].append(found['spectra'][0] | {'module': ''})
  found['spectra'][-1] = {k: v for k, v in found['spectra'][-1].items()
                          if k in ('seed', 'role', 'target', 'stage')} | {
                              'module': '', 'top': np.array([.1, .5])}
  by_top = profile.figure(found)['by_top']
  assert [s['key'] for s in by_top] == ['', '_null', '_floor']
  assert [p['x'] for p in by_top[2]['points']] == [.1, .5]
  assert by_top[2]['points'][0]['y'] == pytest.approx(np.degrees(.01))


def test_a_sweep_is_drawn_by_its_problems():
  rng = np.random.default_rng(0)
  found = {}
  for i in range(45):
    bits = {f'{s}_solved': rng.random(1024) < .5 for s in ('id', 'ood')}
    row = {'distance_to_sft': float(i), 'distance_to_base': 45. - i} | bits | {
        f'{s}_problems': np.arange(1024) // 5 for s in ('id', 'ood')}
    found[f'e{i}'] = edits.Edit(f'e{i}', 'e', {}, 'e', False, {0: row})
  drawn = edits.draw(found)
  assert drawn.rates['id'].shape == (2000, 45)
  assert drawn.shared['id'].count == 205


def test_a_run_that_only_measured_its_start_has_no_effect(study):
  for seed in (0, 1):
    path = study / f'rl_{seed}_200' / 'evals.jsonl'
    rows = [json.loads(line) for line in path.read_text().split('\n') if line]
    path.write_text(''.join(
        json.dumps(row) + '\n' for row in rows if row['step'] == 0))
  found = tables.read(study)
  run = next(r for r in summary.sections(found)['rl'] if r['from_step'] == 200)
  assert run['effect'] == {'id': None, 'ood': None}
  row = next(r for r in branches.figure(found)['rows']
             if r['from_step'] == 200)
  assert row['ood']['end'] is None and row['ood']['start']['n'] == 400


def test_the_page_draws_the_intervals_over_problems(written):
  text = (written / 'report.html').read_text(encoding='utf-8')
  content = json.loads(text.split('id="data">')[1].split('</script>')[0])
  found = json.loads((written / 'summary.json').read_text())
  point = content['figures']['curves']['series'][1]['points'][3]
  rate = found['sft']['curve'][3]['ood']
  assert (point['low'], point['high']) == (
      rate['cluster_low'], rate['cluster_high'])
  assert point['wilson'] == [rate['low'], rate['high']]
