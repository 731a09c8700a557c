"""The table of a controlled comparison: where arms match, and by how much."""
import json

import numpy as np
import pytest

from rlft import report
from rlft.report import arms, page, tables
from tests.report import conftest
from tests.report.test_report_page import read

COUNT, STEPS = 200, (0, 4, 8)
RATES = {'grpo': (.30, .45, .60), 'rloo': (.30, .40, .50)}
TUNED = 'optimizer.learning_rate'


def config_of(objective, rate=None, num_steps=8):
  return dict(
      num_steps=num_steps, critic=False, lora=dict(rank=0),
      objective=dict(name=objective), passes=dict(epochs=2, minibatches=1),
      optimizer={} if rate is None else dict(learning_rate=rate))


def write_stage(path, name, hands, rates, *, tokens=100., steps=STEPS,
                kl=.01, tune=None):
  """A run: ID as given, OOD half of it, KL by step; tokens of every step."""
  rows = []
  for i, (step, rate) in enumerate(zip(steps, rates, strict=True)):
    rows += [conftest.evaluation(step, 'id', hands.solve('id', rate),
                                 kl_to_base=kl * i),
             conftest.evaluation(step, 'ood', hands.solve('ood', rate / 2))]
    if tune is not None:
      rows.append(conftest.evaluation(
          step, 'tune', hands.solve('id', tune if i else .3)))
  conftest.write_lines(path / name / 'evals.jsonl', rows)
  conftest.write_lines(path / name / 'metrics.jsonl', [
      dict(step=s, tokens=tokens, loss=1.) for s in range(1, steps[-1] + 1)])


def write(path, stages, **section):
  """A study of [(name, role, seed, config, how write_stage)]."""
  hands = {seed: conftest.Hands(np.random.default_rng(seed), COUNT, 0.)
           for seed in (0, 1)}
  listed, planned = [], {}
  for name, role, seed, config, how in stages:
    write_stage(path, name, hands[seed], **how)
    listed.append(dict(name=name, role=role, seed=seed, from_step=None,
                       seconds=1., finished=True))
    planned[name] = dict(role=role, seed=seed, from_step=None, config=config)
  conftest.write_json(path / 'stages.json', listed)
  conftest.write_json(path / 'config.json', dict(
      name='toy', stages=planned, order=list(planned),
      comparison=dict(treatment='objective', arms=['grpo', 'rloo'],
                      matching='updates', tuned='', chosen_by='',
                      tolerance=.05) | section))
  return path


def plain(more=None):
  return [(f'{role}_{seed}', role, seed, config_of(role),
           dict(rates=RATES[role]) | (more or {}).get(role, {}))
          for role in RATES for seed in (0, 1)]


def found(path):
  return arms.compared(tables.read(path))


def test_arms_are_compared_at_their_end_paired(tmp_path):
  got = found(write(tmp_path, plain()))
  grpo, rloo = got['rows']
  assert [grpo['arm'], rloo['arm']] == ['grpo', 'rloo']
  assert grpo['seeds'] == 2 and grpo['steps'] == [8, 8]
  assert grpo['quantity'] == 16 and grpo['ratio'] == 1  # two epochs of 8
  assert grpo['matched'] and rloo['matched']
  assert grpo['id']['success'] == pytest.approx(.6)
  assert grpo['id']['n'] == 2 * COUNT
  assert rloo['over']['id']['mean'] == pytest.approx(-.1)
  assert rloo['over']['ood']['mean'] == pytest.approx(-.05)
  assert grpo['over'] == {}
  assert grpo['gain']['id']['mean'] == pytest.approx(.3)
  assert grpo['gain']['id']['low'] > .2
  # paired: narrower than two intervals that know nothing of each other
  wide = sum(r['id']['cluster_high'] - r['id']['cluster_low']
             for r in (grpo, rloo))
  gap = rloo['over']['id']
  assert gap['low'] < -.1 < gap['high'] and gap['high'] - gap['low'] < wide
  assert grpo['kl']['mean'] == pytest.approx(.02) and got['missing'] == []


def test_tokens_are_summed_and_beyond_the_tolerance_not_matched(tmp_path):
  path = write(tmp_path, plain({'rloo': dict(tokens=104.)}), matching='tokens')
  grpo, rloo = found(path)['rows']
  assert (grpo['quantity'], rloo['quantity']) == (800, 832)
  assert rloo['ratio'] == pytest.approx(1.04) and rloo['matched']
  config = json.loads((path / 'config.json').read_text())
  config['comparison']['tolerance'] = .03
  conftest.write_json(path / 'config.json', config)
  assert not found(path)['rows'][1]['matched']


def test_flops_are_tokens_times_size_times_passes(tmp_path, monkeypatch):
  monkeypatch.setattr(
      arms.provenance, 'parameters', lambda config: 1000)
  grpo, _ = found(write(tmp_path, plain(), matching='flops'))['rows']
  assert grpo['quantity'] == 800 * 1000 * 18  # 2 + 4 + two epochs of 6


def test_what_was_not_logged_is_not_matched(tmp_path):
  path = write(tmp_path, plain(), matching='tokens')
  log = path / 'rloo_1' / 'metrics.jsonl'
  log.write_text(''.join(log.read_text().splitlines(keepends=True)[1:]))
  rloo = found(path)['rows'][1]
  assert np.isnan(rloo['quantity']) and not rloo['matched']
  report.write(path)
  summary = json.loads((path / 'summary.json').read_text())
  assert summary['comparison']['rows'][1]['quantity'] is None


def test_id_success_is_matched_at_the_nearest_step_of_every_run(tmp_path):
  rates = {'grpo': (.3, .49, .7), 'rloo': (.3, .4, .5)}
  got = found(write(tmp_path, plain({
      role: dict(rates=r) for role, r in rates.items()}),
      matching='id_success'))
  grpo, rloo = got['rows']
  assert got['level'] == .5  # the best that rloo comes to
  assert grpo['steps'] == [4, 4] and rloo['steps'] == [8, 8]
  assert grpo['id']['success'] == .49 and grpo['matched']
  assert rloo['over']['ood']['mean'] == pytest.approx(.005, abs=.003)


def test_kl_is_matched_and_one_run_off_the_level_is_told(tmp_path):
  stages = plain({'grpo': dict(kl=.02), 'rloo': dict(kl=.01)})
  got = found(write(tmp_path, stages, matching='kl'))
  assert got['level'] == .02
  assert [r['steps'] for r in got['rows']] == [[4, 4], [8, 8]]
  assert all(r['matched'] for r in got['rows'])
  stages[0][4]['kl'] = .023
  got = found(write(tmp_path, stages, matching='kl'))
  assert got['level'] == .02 and got['rows'][0]['steps'] == [4, 4]
  assert not got['rows'][0]['matched'] and got['rows'][1]['matched']


def tuned(tune):
  """Two learning rates; the held-out winner is not that of the validation."""
  return [(f'{role}_{seed}_{rate}', role, seed, config_of(role, rate), dict(
      rates=(.3, .4, .5 if rate == 1e-3 else .6), tune=tune[rate]))
      for role in RATES for rate in (1e-3, 1e-4) for seed in (0, 1)]


def test_of_a_grid_what_is_chosen_on_validation_is_reported(tmp_path):
  path = write(tmp_path, tuned({1e-3: .7, 1e-4: .6}), tuned=TUNED,
               chosen_by='tune')
  row = found(path)['rows'][0]
  assert row['chosen'] == 1e-3 and row['seeds'] == 2
  assert row['id']['success'] == pytest.approx(.5)  # though the other has .6
  assert [(g['value'], g['success']['success']) for g in row['grid']] == [
      (1e-4, pytest.approx(.6)), (1e-3, pytest.approx(.7))]
  equal = write(tmp_path / 'b', tuned({1e-3: .7, 1e-4: .7}), tuned=TUNED,
                chosen_by='tune')
  assert found(equal)['rows'][0]['chosen'] == 1e-4


def test_nothing_is_chosen_of_a_grid_that_is_not_finished(tmp_path):
  path = write(tmp_path, tuned({1e-3: .7, 1e-4: .6}), tuned=TUNED,
               chosen_by='tune')
  stages = json.loads((path / 'stages.json').read_text())
  stages[-1]['finished'] = False
  conftest.write_json(path / 'stages.json', stages)
  got = found(path)
  assert got['missing'] == ['rloo'] and [
      r['arm'] for r in got['rows']] == ['grpo']
  _, content = read(report.write(path))
  assert content['controlled']['missing'] == ['rloo']


def unfinished(path, name):
  stages = json.loads((path / 'stages.json').read_text())
  for stage in stages:
    stage['finished'] &= stage['name'] != name
  conftest.write_json(path / 'stages.json', stages)
  return path


def test_nothing_is_over_a_control_that_is_not_finished(tmp_path):
  path = unfinished(write(tmp_path, plain(), arms=[
      'grpo', 'rloo', 'ppo']), 'grpo_1')
  got = found(path)
  assert got['missing'] == ['grpo', 'ppo']
  [rloo] = got['rows']
  assert rloo['over'] == {} and rloo['matched'] is None
  assert np.isnan(rloo['ratio']) and rloo['gain']['id']['mean'] > 0
  report.write(path)


def test_a_step_without_the_level_is_not_where_runs_are_compared(tmp_path):
  path = write(tmp_path, plain(), matching='kl')
  log = path / 'grpo_0' / 'evals.jsonl'
  rows = [json.loads(line) for line in log.read_text().splitlines()]
  del rows[0]['kl_to_base']  # at step 0, where others have it
  conftest.write_lines(log, rows)
  got = found(path)
  assert got['level'] == .02
  assert [r['steps'] for r in got['rows']] == [[8, 8], [8, 8]]
  for row in rows:
    row.pop('kl_to_base', None)
  conftest.write_lines(log, rows)
  got = found(path)
  assert np.isnan(got['level']) and not any(r['matched'] for r in got['rows'])
  report.write(path)


def test_a_tuned_field_may_be_of_several_values(tmp_path):
  path = write(tmp_path, tuned({1e-3: .7, 1e-4: .6}), tuned='optimizer.betas',
               chosen_by='tune')
  config = json.loads((path / 'config.json').read_text())
  for stage in config['stages'].values():
    rate = stage['config']['optimizer']['learning_rate']
    stage['config']['optimizer']['betas'] = [.9, 1 - rate]
  conftest.write_json(path / 'config.json', config)
  assert found(path)['rows'][0]['chosen'] == (.9, 1 - 1e-3)
  report.write(path)


def test_what_was_not_logged_has_no_point_in_the_figure(tmp_path):
  path = write(tmp_path, plain(), matching='tokens')
  log = path / 'rloo_1' / 'metrics.jsonl'
  log.write_text('{"loss": 1}\n' + ''.join(
      log.read_text().splitlines(keepends=True)[:4]))
  _, content = read(report.write(path))
  assert [[p['x'] for p in line['points']] for line in
          content['controlled']['lines']] == [[0, 400, 800], [0, 400]]


def test_one_seed_has_no_interval_of_its_kl(tmp_path):
  got = found(write(tmp_path, [s for s in plain() if s[2] == 0]))
  assert got['rows'][0]['kl'] | {'mean': 0} == dict(
      mean=0, low=None, high=None, seeds=1, n=1)


def test_the_page_has_a_line_and_a_row_for_each_arm(tmp_path):
  path = write(tmp_path, plain())
  _, content = read(report.write(path))
  shown = content['controlled']
  assert [line['arm'] for line in shown['lines']] == ['grpo', 'rloo']
  assert [p['x'] for p in shown['lines'][0]['points']] == [0, 8, 16]
  assert len(shown['lines'][0]['seeds']) == 2
  assert 'within 5 %' in shown['note'] and 'n = 200 hands' in shown['note']
  assert 'interval' in shown['note']
  summary = json.loads((path / 'summary.json').read_text())
  assert summary['comparison']['rows'][1]['over']['id']['mean'] < 0
  assert 'controlled(D.controlled)' in page.TEMPLATE.read_text()


def test_a_study_without_a_comparison_shows_none(written):
  _, content = read(written / 'report.html')
  assert content['controlled'] is None
  assert 'comparison' not in json.loads(
      (written / 'summary.json').read_text())


def test_a_damaged_section_is_a_warning(tmp_path):
  path = write(tmp_path, plain(), matching='luck')
  _, content = read(report.write(path))
  assert content['controlled'] is None
  assert any('config.json: no comparison can be made: no matching' in w
             for w in content['warnings'])


def test_arms_that_are_not_there_are_missing(tmp_path):
  got = found(write(tmp_path, plain(), arms=['grpo', 'ppo']))
  assert got['missing'] == ['ppo'] and len(got['rows']) == 1
  assert found(write(tmp_path / 'b', plain(), arms=['a', 'b']))['rows'] == []
