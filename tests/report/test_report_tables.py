"""Reading a study: what is kept, what is skipped, and that it says so."""
import json

import numpy as np
import pytest

from rlft.report import files, tables


def test_every_table_is_read(study):
  found = tables.read(study)
  assert found['warnings'] == []
  count = {name: len(rows) for name, rows in found.items()}
  # 2 seeds: SFT has 8 steps, each of 5 RL runs 4, two evaluations each; and
  # SFT nine more at its last step.
  assert count['evals'] == 2 * (2 * (8 + 5 * 4) + 9)
  assert count['rotation'] == 2 * 4 * 7 and count['spectra'] == 2 * 7
  assert count['restoration'] == 2 * 18
  row = next(r for r in found['evals'] if r['role'] == 'rl')
  assert {'stage', 'seed', 'from_step', 'step', 'eval'} <= set(row)


def test_solved_hands_are_unpacked_in_order():
  bits = np.array([1, 0, 0, 1, 1, 0, 1, 0, 1, 1], bool)
  np.testing.assert_array_equal(
      files.unpack(np.packbits(bits).tobytes().hex(), 10), bits)
  with pytest.raises(ValueError, match='8 bits for 9 hands'):
    files.unpack('ff', 9)


def test_a_truncated_line_is_skipped_and_said(study):
  path = study / 'sft_0' / 'evals.jsonl'
  path.write_text(path.read_text()[:-40])
  found = tables.read(study)
  assert sum(r['stage'] == 'sft_0' for r in found['evals']) == 24
  assert [w for w in found['warnings'] if 'sft_0/evals.jsonl: line 25' in w]


def test_a_resumed_run_counts_each_evaluation_once(study):
  path = study / 'sft_0' / 'evals.jsonl'
  first = json.loads(path.read_text().split('\n')[0])
  again = first | {'success': 0., 'solved': '00' * 25}
  path.write_text(path.read_text() + json.dumps(again) + '\n')
  rows = [r for r in tables.read(study)['evals'] if r['stage'] == 'sft_0' and
          r['step'] == first['step'] and r['eval'] == first['eval']]
  assert [r['success'] for r in rows] == [0.]


def test_solved_hands_that_disagree_are_not_trusted(study):
  path = study / 'sft_1' / 'evals.jsonl'
  lines = path.read_text().split('\n')
  row = json.loads(lines[3])
  lines[3] = json.dumps(row | {'solved': 'ff' * 25})
  path.write_text('\n'.join(lines))
  found = tables.read(study)
  bad = [r for r in found['evals'] if r['solved'] is None]
  assert [(r['stage'], r['step']) for r in bad] == [('sft_1', row['step'])]
  assert len(found['warnings']) == 1 and 'disagree' in found['warnings'][0]


def test_impossible_rates_are_skipped(study):
  path = study / 'sft_0' / 'evals.jsonl'
  path.write_text(path.read_text() + '{"step": 9, "eval": "id", "n": 4, '
                  '"success": NaN}\n{"step": 9, "eval": "id", "n": 0, '
                  '"success": 0}\n')
  found = tables.read(study)
  assert not [r for r in found['evals'] if r['step'] == 9]
  assert len(found['warnings']) == 2


def test_stages_say_what_came_of_them(study):
  stages = json.loads((study / 'stages.json').read_text())
  for stage in stages:
    if stage['name'] in ('rl_0_50', 'rl_1_50'):
      stage['finished'] = False
  (study / 'stages.json').write_text(json.dumps(stages))
  (study / 'rl_1_50' / 'evals.jsonl').unlink()
  (study / 'rotation_0' / 'rotation.json').unlink()
  found = tables.read(study)
  state = {s['name']: s['state'] for s in found['stages']}
  assert (state['sft_0'], state['rl_0_50'], state['rl_1_50']) == (
      'finished', 'unfinished', 'not run')
  assert found['warnings'] == [
      'stage rotation_0 is finished but has no rotation.json']


def test_planned_stages_are_not_run_until_they_are(study):
  config = json.loads((study / 'config.json').read_text())
  (study / 'config.json').write_text(json.dumps(config | {
      'order': ['sft_0', 'rl_0_500'], 'stages': {
          'sft_0': {'role': 'sft', 'seed': 0, 'config': {}},
          'rl_0_500': {'role': 'rl', 'seed': 0, 'from_step': 500}}}))
  stages = tables.read(study)['stages']
  assert [s['name'] for s in stages].count('sft_0') == 1
  assert stages[-1]['name'] == 'rl_0_500'
  assert stages[-1]['state'] == 'not run' and stages[-1]['seconds'] is None


def test_a_repeated_or_unplaced_stage_is_left_out(study):
  stages = json.loads((study / 'stages.json').read_text())
  twin = next(s for s in stages if s['name'] == 'sft_0') | {'name': 'sft_x'}
  lost = next(s for s in stages if s['name'] == 'rl_0_50') | {
      'name': 'rl_x', 'from_step': None}
  (study / 'stages.json').write_text(json.dumps([*stages, twin, lost]))
  found = tables.read(study)
  assert not {'sft_x', 'rl_x'} & {s['name'] for s in found['stages']}
  assert len(found['warnings']) == 2


def test_rotation_is_named_by_what_it_compares(study):
  path = study / 'rotation_0' / 'rotation.json'
  row = json.loads(path.read_text()) | {
      'before': f'{study}/sft_0@600', 'after': 'rl_0_200@60'}
  path.write_text(json.dumps(row))
  found = tables.read(study)['rotation']
  assert {(r['comparison'], r['target']) for r in found} == {
      ('sft@600 → rl@60', 'rl'), ('sft@0 → sft@600', 'sft')}


def test_a_broken_array_file_is_skipped(study):
  (study / 'rotation_0' / 'rotation.npz').write_bytes(b'PK\x03\x04 cut')
  found = tables.read(study)
  assert {r['seed'] for r in found['spectra']} == {1}
  assert found['warnings'] == [
      'rotation_0/rotation.npz: cannot be read: it is skipped']


def test_an_analysis_says_in_its_config_what_it_compares(study):
  (study / 'rotation_1' / 'config.json').write_text(json.dumps({
      'checkpoints': {'before': '/elsewhere/rl_1_50@0',
                      'after': f'{study}/rl_1_50@60'}}))
  path = study / 'rotation_1' / 'rotation.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {
      'before': 'before', 'after': 'after'}))
  found = tables.read(study)['rotation']
  assert {(r['seed'], r['comparison'], r['target']) for r in found} == {
      (0, 'sft@0 → sft@600', 'sft'), (1, 'rl@0 → rl@60', 'rl')}


def test_an_unnamed_restoration_is_one_of_sft(study):
  (study / 'restoration_0_600' / 'config.json').unlink()
  found = tables.read(study)['restoration']
  assert {(r['seed'], r['comparison'], r['target']) for r in found} == {
      (0, 'base → SFT end', 'sft'), (1, 'sft@0 → sft@600', 'sft')}


def test_stages_may_lie_deeper_and_have_roles_of_their_own(study):
  (study / 'seed0').mkdir()
  (study / 'restoration_0_600').rename(study / 'seed0' / 'peak')
  stages = json.loads((study / 'stages.json').read_text())
  for stage in stages:
    if stage['name'] == 'restoration_0_600':
      stage |= {'name': 'seed0/peak', 'role': 'restoration_peak'}
  (study / 'stages.json').write_text(json.dumps(stages))
  config = json.loads((study / 'config.json').read_text())
  (study / 'config.json').write_text(json.dumps(config | {'stages': {
      'seed0/peak': {'config': {'analysis': {'name': 'restoration'}}}}}))
  path = study / 'seed0' / 'peak' / 'restoration.jsonl'
  path.write_text(path.read_text() + '{"cut')
  found = tables.read(study)
  assert {(r['role'], r['seed']) for r in found['restoration']} == {
      ('restoration_peak', 0), ('restoration', 1)}
  assert found['warnings'][0].startswith(
      'seed0/peak/restoration.jsonl: line 19')


def test_no_directory_is_an_error(tmp_path):
  with pytest.raises(ValueError, match='not a directory'):
    tables.read(tmp_path / 'nowhere')
