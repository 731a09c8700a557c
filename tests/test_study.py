"""A study: stages in order, none done twice, names of stages made paths."""
import functools
import json

import ml_collections
import pytest

from rlft import analyze, api, arms, check, report, study, train, weights
from rlft import config as door
from rlft.training import metrics
from tests import tiny


def analysis(before, after):
  return ml_collections.ConfigDict(dict(
      analysis=dict(name='rotation', top=0.2),
      checkpoints=dict(before=before, after=after)))


def rl_from(init):
  config = tiny.rl_config()
  config.init = config.base = init
  return config


def study_of(**configs):
  """A study whose stages have the role of their name."""
  stages = {name: study.stage(name.rstrip('0123456789'), config, seed=3)
            for name, config in configs.items()}
  return ml_collections.ConfigDict(dict(
      name='toy', stages=stages, order=tuple(stages)))


def full():
  return study_of(sft=tiny.sft_config(), rl=rl_from('sft@2'),
                  rotation=analysis('sft@0', 'rl@4'))


@pytest.fixture
def world(monkeypatch):
  """Notes what would be run, and raises where a test wants it to."""
  notes = []

  def note(kind, config, run_dir):
    notes.append((kind, config, run_dir))
    if world.stop == run_dir.name:
      raise KeyboardInterrupt

  def page(study_dir):
    notes.append(('report', None, study_dir))
    return study_dir / 'report.html'

  world = functools.partial(list)
  world.notes, world.stop = notes, None
  monkeypatch.setattr(train, 'run', functools.partial(note, 'train'))
  monkeypatch.setattr(analyze, 'run', functools.partial(note, 'analyze'))
  monkeypatch.setattr(report, 'write', page)
  return world


def names(world):
  return [(kind, run_dir.name) for kind, _, run_dir in world.notes]


def test_stages_run_in_order_and_the_report_is_last(world, tmp_path):
  page = study.run(full(), tmp_path)
  assert page == tmp_path / 'report.html'
  assert names(world) == [
      ('train', 'sft'), ('train', 'rl'), ('analyze', 'rotation'),
      ('report', tmp_path.name)]
  rows = study.read_stages(tmp_path)
  assert [row['name'] for row in rows] == ['sft', 'rl', 'rotation']
  assert all(row['finished'] for row in rows)
  assert all(set(row) == {'name', 'role', 'seed', 'from_step', 'finished',
                          'seconds'} for row in rows)
  assert [row['seed'] for row in rows] == [3, 3, 3]
  for name in ('sft', 'rl', 'rotation'):
    assert (tmp_path / name / 'config.json').is_file()


def test_the_order_is_the_studys_own_and_not_the_alphabets(world, tmp_path):
  config = study_of(b=tiny.sft_config(), c=tiny.sft_config())
  config.order = ('c', 'b')
  study.run(config, tmp_path)
  assert names(world)[:2] == [('train', 'c'), ('train', 'b')]


def test_names_of_stages_become_paths(world, tmp_path):
  study.run(full(), tmp_path)
  _, rl, rotation = (config for _, config, _ in world.notes[:3])
  assert rl.init == rl.base == f'{tmp_path}/sft@2'
  assert rotation.checkpoints.to_dict() == {
      'before': f'{tmp_path}/sft@0', 'after': f'{tmp_path}/rl@4'}
  other = study.resolve(rl_from('runs/sft@2'), full().stages, tmp_path)
  assert other.init == 'runs/sft@2'  # a run of another place


def test_a_study_may_move(world, tmp_path):
  """What a stage wrote names others as the study does."""
  world.stop = 'rl'
  with pytest.raises(KeyboardInterrupt):
    study.run(full(), tmp_path / 'here')
  (tmp_path / 'here').rename(tmp_path / 'there')
  world.stop = None
  study.run(full(), tmp_path / 'there')
  rl = tmp_path / 'there' / 'rl'
  assert world.notes[2][1].init == f'{tmp_path}/there/sft@2'
  assert json.loads((rl / 'config.json').read_text())['init'] == 'sft@2'
  assert weights.config_of(f'{rl}@4')['base'] == f'{tmp_path}/there/sft@2'
  assert weights.config_of(f'{tmp_path}/there/sft@4')['init'] == ''
  assert weights.located('none@2', rl) == 'none@2'
  assert weights.located('asset:x', rl) == 'asset:x'


def test_a_finished_stage_is_not_done_again(world, tmp_path):
  study.run(full(), tmp_path)
  del world.notes[:]
  before = study.read_stages(tmp_path)
  study.run(full(), tmp_path)
  assert names(world) == [('report', tmp_path.name)]
  assert study.read_stages(tmp_path) == before


def test_an_interrupted_stage_is_taken_up_again(world, tmp_path):
  world.stop = 'rl'
  with pytest.raises(KeyboardInterrupt):
    study.run(full(), tmp_path)
  rows = study.read_stages(tmp_path)
  assert [(r['name'], r['finished']) for r in rows] == [
      ('sft', True), ('rl', False)]
  rows[1]['seconds'] = 100.0  # what it has cost is kept
  study.write_stages(tmp_path, rows)
  del world.notes[:]
  world.stop = None
  study.run(full(), tmp_path)
  assert names(world) == [
      ('train', 'rl'), ('analyze', 'rotation'), ('report', tmp_path.name)]
  rows = study.read_stages(tmp_path)
  assert [r['name'] for r in rows] == ['sft', 'rl', 'rotation']
  assert rows[1]['finished'] and 100.0 <= rows[1]['seconds'] < 110.0


def test_a_stage_of_another_config_is_not_overwritten(world, tmp_path):
  world.stop = 'sft'
  with pytest.raises(KeyboardInterrupt):
    study.run(full(), tmp_path)
  other = full()
  other.stages.sft.config.seed = 9
  with pytest.raises(
      ValueError, match='of another config, seed having been 0, now 9: take'):
    study.run(other, tmp_path)


def measured(folder, ood):
  for step, success in ood.items():
    for name, value in (('id', 1.0), ('ood', success)):
      metrics.append(folder / 'evals.jsonl', {
          'step': step, 'eval': name, 'success': value})


@pytest.mark.parametrize('ood, peak', [
    ({0: 0.2, 2: 0.6, 4: 0.3}, 2), ({0: 0.2, 2: 0.4, 4: 0.4}, 2)])
def test_an_analysis_may_begin_at_the_ood_peak(world, tmp_path, ood, peak):
  """Of equals, at the first."""
  measured(tmp_path / 'sft', ood)
  config = study_of(
      sft=tiny.sft_config(), rotation=analysis('sft@best_ood', 'sft@4'))
  check.study(config)
  study.run(config, tmp_path)
  assert world.notes[1][1].checkpoints.before == f'{tmp_path}/sft@{peak}'


def test_a_peak_at_step_0_is_no_peak_of_training(world, tmp_path):
  """The search begins there, and another analysis compares with it."""
  measured(tmp_path / 'sft', {0: 0.5, 2: 0.4, 4: 0.5})
  study.run(study_of(sft=tiny.sft_config(), rotation=analysis(
      'sft@best_ood', 'sft@4')), tmp_path)
  assert study.best_ood(tmp_path / 'sft') == 0
  assert ('analyze', 'rotation') not in names(world)


def test_a_run_may_not_begin_at_the_ood_peak(world, tmp_path):
  config = study_of(sft=tiny.sft_config(), rl=rl_from('sft@best_ood'))
  with pytest.raises(ValueError, match='stage rl: a run may not start from'):
    check.study(config)
  measured(tmp_path / 'sft', {0: 0.5})
  with pytest.raises(ValueError, match='a run may not start from @best_ood'):
    study.run(config, tmp_path)
  with pytest.raises(ValueError, match='a run may not start from @best_ood'):
    check.run(rl_from('runs/sft@best_ood'))


def test_a_sound_study_is_let_through():
  check.study(full())


@pytest.mark.parametrize('config, complaint', [
    (lambda: study_of(sft=tiny.sft_config(), rl=rl_from('sft@3')),
     'stage rl: stage sft saves no step 3; it saves 0, 2, 4, best_ood, last'),
    (lambda: study_of(rl=rl_from('sft@2'), sft=tiny.sft_config()),
     'stage rl: no checkpoints in sft'),
    (lambda: study_of(sft=tiny.sft_config(), rotation=analysis('x@1', 'sft@4')),
     'stage rotation: no checkpoints in x'),
    (lambda: study_of(rl=rl_from('asset:none')), "stage rl: no asset 'none'")])
def test_a_study_that_would_stop_half_way_does_not_begin(config, complaint):
  with pytest.raises(ValueError, match=complaint):
    check.study(config())


@pytest.mark.parametrize('spoil, complaint', [
    (lambda s: s.sft.config.objective.update(clip=1), 'stage sft: .*no clip'),
    (lambda s: s.rl.config.passes.update(minibatches=3), 'stage rl: 8 rows'),
    (lambda s: s.rl.config.model.update(preset='nano'), 'stage rl: .* model'),
    (lambda s: s.rotation.config.analysis.update(topp=1), 'takes no topp'),
    (lambda s: s.rotation.config.analysis.update(name='x'), "no 'x' in"),
    (lambda s: s.rotation.config.update(env={}), 'section of the analysis rot'),
    (lambda s: s.rotation.config.checkpoints.update(other='sft@0'),
     'checkpoints names two: before and after'),
    (lambda s: s.rotation.config.checkpoints.update(before='sft@3'),
     'stage rotation: stage sft saves no step 3'),
    (lambda s: s.rotation.config.checkpoints.update(before='asset:nano'),
     "stage rotation: no asset 'nano'"),
    (lambda s: s.rotation.config.checkpoints.update(
        after='asset:points24_nano'),
     "tiny': compare checkpoints of one model"),
    (lambda s: sweeping(s, dict(kind='vectros')), "no kind 'vectros' of edit"),
    (lambda s: sweeping(s, dict(kind='revert', modules=('mlp',))),
     'no module mlp; known: down, gate'),
    (lambda s: sweeping(s, dict(kind='revert', layers=(.6, .9))),
     'none of 2 layers'),
    (lambda s: sweeping(s), 'the sweep is empty')])
def test_every_stage_is_checked_before_any_begins(spoil, complaint):
  config = full()
  spoil(config.stages)
  with pytest.raises(ValueError, match=complaint):
    check.study(config)


def sweeping(stages, *sweep):
  """Makes the analysis one of edits."""
  run = tiny.sft_config()
  stages.rotation.config = dict(
      analysis=dict(name='restoration', sweep=sweep), evals=run.evals,
      checkpoints=dict(before='sft@0', after='sft@last'), init='', base='',
      model=run.model, tokenizer=run.tokenizer)


def test_a_sweep_is_let_through():
  config = full()
  sweeping(config.stages, dict(kind='none'), dict(kind='values'))
  check.study(config)
  config.stages.rotation.config.model.preset = 'nano'
  with pytest.raises(ValueError, match=r'made with the model.*not with .*nano'):
    check.study(config)


@pytest.mark.parametrize('spoil, complaint', [
    (lambda c: c.update(model={}), 'no key of a study is called model; known:'),
    (lambda c: c.update(order=('sft', 'rl')), 'order names each of its stages'),
    (lambda c: c.stages.rl.update(at=3), 'no key of stage rl is called at; kn'),
    (lambda c: c.stages.rl.config.update(at=3),
     'stage rl: no section is called at; known:'),
    (lambda c: c.stages.rotation.config.update(lora={}),
     'stage rotation: no section of an analysis is called lora; known: ana')])
def test_a_study_has_no_key_that_nothing_reads(spoil, complaint):
  config = full()
  door.validate(config)
  spoil(config)
  with pytest.raises(ValueError, match=complaint):
    door.validate(config)


def test_what_a_run_will_keep_is_what_a_stage_may_name():
  config = full()
  config.stages.sft.config.checkpoint.keep = 1
  with pytest.raises(ValueError, match=r'saves no step 2; it saves 4, last$'):
    check.study(config)


def test_a_study_that_was_stopped_ends_as_one_that_was_not(
    tmp_path, monkeypatch):
  """With real runs: stopped at the end of its second stage."""
  monkeypatch.setattr(report, 'write', lambda folder: folder / 'report.html')
  config = study_of(sft=tiny.sft_config(), sft2=tiny.sft_config())
  config.stages.sft2.config.init = 'sft@4'
  study.run(config, tmp_path / 'whole')
  record = train.evaluate.record

  def stopping(run_dir, step, *rest):
    if run_dir.name == 'sft2' and step == 4:
      raise KeyboardInterrupt
    return record(run_dir, step, *rest)

  monkeypatch.setattr(train.evaluate, 'record', stopping)
  with pytest.raises(KeyboardInterrupt):
    study.run(config, tmp_path / 'stopped')
  monkeypatch.setattr(train.evaluate, 'record', record)
  study.run(config, tmp_path / 'stopped')
  whole, stopped = (
      weights.flatten(weights.load(f'{tmp_path / name}/sft2@4'))
      for name in ('whole', 'stopped'))
  assert {k: v.tobytes() for k, v in whole.items()} == {
      k: v.tobytes() for k, v in stopped.items()}
  start = weights.flatten(weights.load(f'{tmp_path}/whole/sft2@0'))
  came = weights.flatten(weights.load(f'{tmp_path}/whole/sft@4'))
  assert all((start[k] == came[k]).all() for k in came)


def test_a_studys_mesh_is_that_of_all_its_stages():
  made = door.load('configs/general_points/demo.py:smoke', {'mesh.fsdp': '2'})
  meshes = [stage.config.mesh.to_dict() for stage in made.stages.values()]
  assert len(meshes) > 4
  assert all(mesh == dict(data=-1, fsdp=2, tensor=1) for mesh in meshes)
  again = door.from_dict(json.loads(door.to_json(made)))
  assert again.stages.rotation.config.mesh.fsdp == 2


def test_a_mesh_that_the_devices_do_not_make_leaves_nothing(tmp_path):
  with pytest.raises(ValueError, match=r'fsdp=3, but there are 1 devices'):
    api.run('configs/general_points/demo.py:smoke', tmp_path / 'study',
            **{'mesh.fsdp': '3'})
  assert not (tmp_path / 'study').exists()


def test_a_study_is_checked_a_stage_for_all_seeds_and_its_comparison(
    monkeypatch):
  seen = []
  monkeypatch.setattr(check, 'run', lambda config, known: seen.append(
      (config.seed, config.optimizer.learning_rate, sorted(known))))
  stages = {}
  for rate in (1e-3, 1e-4):
    for seed in (0, 1):
      config = tiny.sft_config()
      config.seed, config.optimizer.learning_rate = seed, rate
      stages[f'a{seed}_{rate:.0e}'] = study.stage('a', config, seed=seed)
  made = study.of('toy', stages)
  check.study(made)
  assert seen == [(0, 1e-3, []), (0, 1e-4, ['a0_1e-03', 'a1_1e-03'])]
  arms.declare(made, treatment='objective', arms=('a', 'b'), matching='kl')
  with pytest.raises(ValueError, match=r'^comparison: a0_1e-03 and a0_1e-04 '):
    check.study(made)
  del made.stages['a0_1e-04'], made.stages['a1_1e-04']
  made.order = tuple(made.stages)
  with pytest.raises(ValueError, match=r'^comparison: no run has the role b'):
    check.study(made)
