"""The command: what it says, what it leaves, and how it declines."""
import io
import json
import os
import shutil
import subprocess
import sys

import pytest

import rlft
from rlft import main, tokenizer
from rlft.training import metrics
from tests import tiny
from tests.command import refused

FILE = '''
import tests.tiny

def get_config(variant=''):
  config = tests.tiny.sft_config()
  if variant == 'hopeless':
    config.env.update(target=99, cards=2)
  if variant == 'nano':
    config.model.preset, config.init = 'nano', 'asset:points24_nano'
  return config
'''


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  path = tmp_path_factory.mktemp('configs') / 'a toy.py'
  path.write_text(FILE)
  return str(path)


@pytest.fixture(scope='module')
def finished(file, tmp_path_factory):
  """The directory of a run of this file, as the command made it."""
  run_dir = tmp_path_factory.mktemp('runs') / 'deep' / 'sft'
  assert main.main(['run', f'--config={file}', f'--run_dir={run_dir}',
                    '--config.seed=0']) == 0
  return run_dir


def contents(folder):
  return {p: p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()
          and 'tensorboard' not in p.parts}


def test_a_run_leaves_all_that_explains_it(file, finished):
  assert {p.name for p in finished.iterdir()} == {
      'config.json', 'command.txt', 'git.txt', 'machine.txt', 'metrics.jsonl',
      'evals.jsonl', 'samples', 'checkpoints', 'tensorboard', '.lock'}
  config = json.loads((finished / 'config.json').read_text())
  assert config['num_steps'] == 4 and config['model']['preset'] == 'tiny'
  command = (finished / 'command.txt').read_text()
  assert command == (
      f"rlft run '--config={file}' --run_dir={finished} --config.seed=0\n")
  assert len((finished / 'git.txt').read_text().split('\n')[0]) in (0, 40)


def test_a_finished_run_runs_again_to_no_effect(file, finished, capfd):
  before = contents(finished)
  assert main.main(['run', f'--config={file}', f'--run_dir={finished}']) == 0
  after = contents(finished)
  first, again = (x.pop(finished / 'command.txt') for x in (before, after))
  assert after == before
  assert again.startswith(first + b'# again, 20')  # added, not put over it
  assert again.splitlines()[2:] == [
      f"rlft run '--config={file}' --run_dir={finished}".encode()]
  assert capfd.readouterr().out == f'{finished}\n'
  (finished / 'command.txt').write_bytes(first)


@pytest.mark.parametrize('extra, complaint', [
    (['--config.num_stpes=3'], 'did you mean num_steps?'),
    (['--config.optimizer.learning_rate=nan'], "rate='nan': give a number"),
    (['--config.env.mode=faithfull'], "no mode 'faithfull'; known: corrected"),
    (['--config.critic=True'], 'sft reads no critic: set config.critic=False'),
    (['--config.experience.rows=-4'], 'whole number from 1'),
    (['--config.init=runs/none@3'], 'no checkpoints in runs/none'),
    (['--config.init=asset:none'], "no asset 'none'"),
    (['--config.init=FINISHED@99'], 'no step 99 in'),
    (['--config.model.preset=nano', '--config.init=FINISHED@4'],
     "was made with the model name='transformer', preset='tiny'"),
    (['--config.objective.name=pop'], "no 'pop' in rlft/objectives"),
    (['--config.evaluate.steps=0,99'], 'step 99 is beyond num_steps 4'),
    (['--confg=x.py'], 'no flag --confg; known: --config, --run_dir'),
    (['--config'], '--config needs a value'),
    (['extra'], "run takes flags only, not 'extra'")])
def test_a_command_that_makes_no_sense_leaves_nothing(
    file, finished, tmp_path, capfd, extra, complaint):
  extra = [word.replace('FINISHED', str(finished)) for word in extra]
  run_dir = tmp_path / 'a' / 'b'
  line = refused(
      ['run', f'--config={file}', f'--run_dir={run_dir}', *extra], capfd)
  assert complaint in line
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('variant, complaint', [
    (':hopeless', 'no solvable hand in 2000 draws'),
    ('.txt', 'no config file at')])
def test_a_file_that_makes_no_sense_leaves_nothing(
    file, tmp_path, capfd, variant, complaint):
  line = refused(['run', f'--config={file}{variant}',
                  f'--run_dir={tmp_path / "a"}'], capfd)
  assert complaint in line
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', [
    'points24_nano.safetensors', 'points24_nano.json',
    'points24.tokenizer.json'])
def test_a_truncated_asset_leaves_nothing(
    file, tmp_path, capfd, monkeypatch, name):
  shelf = tmp_path / 'assets'
  shutil.copytree(tokenizer.ASSETS, shelf)
  monkeypatch.setattr(tokenizer, 'ASSETS', shelf)
  (shelf / name).write_bytes((shelf / name).read_bytes()[:1000])
  line = refused(['run', f'--config={file}:nano',
                  f'--run_dir={tmp_path / "a"}'], capfd)
  assert name in line and ('damaged' in line or 'no tokenizer' in line)
  assert not (tmp_path / 'a').exists()


def test_a_directory_that_cannot_be_made_is_refused(file, tmp_path, capfd):
  (tmp_path / 'plain').write_text('x')
  line = refused(['run', f'--config={file}',
                  f'--run_dir={tmp_path / "plain" / "run"}'], capfd)
  assert 'cannot write to' in line and '--run_dir' in line
  assert [p.name for p in tmp_path.iterdir()] == ['plain']


def test_a_directory_of_another_config_is_left_alone(file, finished, capfd):
  before = contents(finished)
  line = refused(['run', f'--config={file}', f'--run_dir={finished}',
                  '--config.seed=1'], capfd)
  assert 'another config' in line
  assert contents(finished) == before


@pytest.mark.parametrize('argv, complaint', [
    (['rnu'],
     'no command rnu; known: run, eval, sample, compare, heal, import, '
     'export, plan, report'),
    (['run', '--config=x.py'], '--run_dir=... is missing'),
    (['run', '--run_dir=x'], '--config=... is missing'),
    (['eval'], 'eval takes one checkpoint'),
    (['eval', 'nothing'], 'write RUN_DIR@STEP'),
    (['eval', 'runs/none@3'],
     'run it first: rlft run --config=... --run_dir=runs/none'),
    (['eval', 'asset:points24_nano', '--out=/nowhere/x.json'],
     'name a file in a directory that is there'),
    (['eval', 'asset:points24_nano', '--out=/'], 'name a file'),
    (['eval', 'asset:points24_nano',
      '--config=configs/general_points/demo.py'], 'demo.py has no evals: give'),
    (['eval', 'asset:points24_nano',
      '--config=configs/general_points/rotation.py'], 'has no evals: give'),
    (['sample', 'asset:points24_nano', ''], 'the prompt is empty'),
    (['sample', 'asset:points24_nano', ' '], 'the prompt is empty'),
    (['sample'], 'sample takes a checkpoint'),
    (['sample', 'asset:none', 'x'], "no asset 'none'"),
    (['sample', 'asset:points24_nano', '--temperature=hot'], 'temperature=hot'),
    (['sample', 'asset:points24_nano', '--temperature=-1'], 'temperature=-1'),
    (['sample', 'asset:points24_nano', '--max_new_tokens=0'], 'tokens=0'),
    (['sample', 'asset:points24_nano', '--top_p=1'], 'no flag --top_p'),
    (['report'], 'report takes one study directory'),
    (['report', 'runs/none'], 'not a study directory')])
def test_what_a_command_does_not_know_is_refused(argv, complaint, capfd):
  assert complaint in refused(argv, capfd)


@pytest.mark.parametrize('argv', [[], ['--help'], ['-h', 'run'], ['x', '-h']])
def test_help_is_no_error(argv, capfd):
  assert main.main(argv) == 0
  assert capfd.readouterr().out.startswith('usage: rlft COMMAND')


def test_help_may_be_read_in_part():
  """As by `rlft --help | head -1`, which leaves before all is said."""
  reads, writes = os.pipe()
  os.close(reads)
  done = subprocess.run(
      [sys.executable, '-m', 'rlft.main', '--help'], stdout=writes,
      stderr=subprocess.PIPE, check=False)
  os.close(writes)
  assert (done.returncode, done.stderr) == (0, b'')


@pytest.mark.parametrize('name', main.COMMANDS)
def test_help_of_a_command_is_its_own(name, capfd):
  assert main.main([name, '--help']) == 0
  said = capfd.readouterr().out
  assert said.startswith(f'usage: rlft {name} ')
  assert said.count('rlft ') == 1


def test_flags_of_the_person_are_kept(monkeypatch):
  """Only a process that has not used JAX yet gets one more."""
  waits = 'JAX_CPU_ENABLE_ASYNC_DISPATCH'
  monkeypatch.setenv(waits, 'true')
  monkeypatch.setenv('XLA_FLAGS', '--a=b')
  main.save_memory()
  assert os.environ['XLA_FLAGS'] == '--a=b'
  monkeypatch.delitem(sys.modules, 'jax')
  main.save_memory()
  main.save_memory()
  flags = os.environ['XLA_FLAGS'].split()
  assert flags[0] == '--a=b' and len(flags) == 2
  assert flags[1].endswith('scheduler=false')
  assert os.environ[waits] == 'true'
  monkeypatch.delenv(waits)
  monkeypatch.setenv('XLA_FLAGS', '')
  main.save_memory()
  assert os.environ[waits] == 'false'


def test_an_interruption_says_how_to_go_on(monkeypatch, capfd):
  def interrupted(*args, **kwargs):
    raise KeyboardInterrupt

  monkeypatch.setattr(rlft, 'write_report', interrupted, raising=False)
  assert main.main(['report', 'x']) == 130
  assert 'the same command goes on' in capfd.readouterr().err


def test_a_traceback_is_there_for_who_asks(monkeypatch):
  monkeypatch.setenv('RLFT_TRACEBACK', '1')
  with pytest.raises(ValueError, match='no command rnu'):
    main.main(['rnu'])


def test_eval_prints_what_the_run_measured(finished, tmp_path, capfd):
  out = tmp_path / 'rows.json'
  assert main.main(['eval', f'{finished}@last', f'--out={out}']) == 0
  lines = capfd.readouterr().out.splitlines()
  logged = [r for r in metrics.read(finished / 'evals.jsonl')
            if r['step'] == 4]
  for line, row, own in zip(
      lines, json.loads(out.read_text()), logged, strict=True):
    assert row['eval'] == own['eval'] and row['solved'] == own['solved']
    assert line.split() == [
        own['eval'], f'{100 * own["success"]:.2f}', '%',
        f'[{100 * own["low"]:.2f},', f'{100 * own["high"]:.2f}]', 'n=6']


def test_eval_takes_overrides_and_other_configs(finished, file, capfd):
  assert main.main(['eval', f'{finished}@4', '--config.evals.id.n=4']) == 0
  assert 'n=4' in capfd.readouterr().out
  assert main.main(['eval', f'{finished}@4', f'--config={file}']) == 0
  assert len(capfd.readouterr().out.splitlines()) == 2


def test_sample_says_what_the_evaluation_heard(finished, capfd):
  heard = [r for r in metrics.read(finished / 'samples' / '000004.jsonl')
           if r['eval'] == 'id'][:2]
  assert main.main(['sample', f'{finished}@4', '--max_new_tokens=6',
                    *(r['prompt'] for r in heard)]) == 0
  assert capfd.readouterr().out.splitlines() == [
      r['completion'] for r in heard]


def test_sample_talks(finished, capfd, monkeypatch):
  """Prompts from standard input; the seed decides what is answered."""
  prompt = '24 faces ten cards K 5 2 4 :'

  def said(seed):
    monkeypatch.setattr('sys.stdin', io.StringIO(f'{prompt}\n\n{prompt}\n'))
    assert main.main(['sample', f'{finished}@4', '--temperature=1',
                      '--max_new_tokens=6', f'--seed={seed}']) == 0
    return capfd.readouterr().out.splitlines()

  first, second = said(0)
  assert first != second  # a fresh key for each
  assert said(0) == [first, second] != said(1)


def test_sample_names_the_words_it_does_not_know(finished, capfd):
  assert main.main(['sample', f'{finished}@4', '--max_new_tokens=2',
                    '24 zebra cards Koenig 5 :', '24 cards']) == 0
  said = capfd.readouterr()
  assert said.err == (
      'rlft: the model has no token for zebra Koenig: read as <unk>\n')
  assert len(said.out.splitlines()) == 2


@pytest.mark.parametrize('command', ['eval', 'sample'])
def test_a_study_is_no_run(finished, tmp_path, capfd, command):
  shutil.copytree(finished, tmp_path / 'sft')
  stages = {'sft': {'config': {}}, 'table': {'config': {'analysis': {}}}}
  (tmp_path / 'config.json').write_text(json.dumps({'stages': stages}))
  line = refused([command, f'{tmp_path}@last'], capfd)
  assert line.endswith(
      f'is a study, not a run: write {tmp_path}/STAGE@STEP with a stage of '
      'sft\n')
  (tmp_path / 'config.json').write_text(json.dumps({'analysis': {}}))
  assert 'is an analysis: it saves no' in refused(
      [command, f'{tmp_path}@last'], capfd)


def spoilt(finished, tmp_path, how):
  run_dir = tmp_path / 'run'
  shutil.copytree(finished, run_dir)
  params = run_dir / 'checkpoints' / '000004' / 'params'
  if how == 'truncated':
    largest = max((p for p in params.rglob('*') if p.is_file()),
                  key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:1000])
  else:
    shutil.rmtree(params)
  return run_dir


# What Orbax abandons may be collected later, with a word of its own.
@pytest.mark.filterwarnings(
    'ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize('how', ['truncated', 'removed'])
def test_a_damaged_checkpoint_is_told_on_one_line(
    file, finished, tmp_path, capfd, how):
  run_dir = spoilt(finished, tmp_path, how)
  whole = contents(run_dir)
  told = (f'{run_dir}@4 is damaged, or of another model: take another step '
          '(0, 2), or delete')
  assert told in refused(['sample', f'{run_dir}@4', '24 cards'], capfd)
  other = tmp_path / 'other'
  assert told in refused(
      ['run', f'--config={file}', f'--run_dir={other}',
       f'--config.init={run_dir}@4'], capfd)
  assert not other.exists()
  assert contents(run_dir) == whole


@pytest.mark.filterwarnings(
    'ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_run_whose_last_step_is_damaged_ends_as_it_did(
    file, finished, tmp_path, capfd):
  run_dir = spoilt(finished, tmp_path, 'truncated')
  capfd.readouterr()
  assert main.main(['run', f'--config={file}', f'--run_dir={run_dir}']) == 0
  first, second, *_ = capfd.readouterr().err.splitlines()
  assert first.endswith('000004 is damaged: renamed 000004.corrupt')
  assert second == f'{run_dir}: going on from step 2'
  for name in ('evals.jsonl', 'samples/000004.jsonl'):
    drop = lambda row: {k: v for k, v in row.items() if 'second' not in k}
    again, before = ([drop(json.loads(line)) for line in (
        folder / name).read_text().splitlines()]
                     for folder in (run_dir, finished))
    assert again == before


def test_the_functions_are_offered_and_nothing_else():
  for name in rlft.__all__:
    assert callable(getattr(rlft, name))
  assert set(rlft.__all__) <= set(dir(rlft))
  with pytest.raises(AttributeError, match='rlft has no zebra'):
    _ = rlft.zebra


def test_a_config_object_runs_as_a_file_does(tmp_path):
  config = tiny.sft_config(0)
  config.evals = {}
  assert rlft.run(config, tmp_path / 'run') == tmp_path / 'run'
  assert (tmp_path / 'run' / 'checkpoints' / '000000').is_dir()
  assert (tmp_path / 'run' / 'command.txt').read_text() == (
      "rlft.run('a ConfigDict, see config.json', "
      f"'{tmp_path / 'run'}')  # from Python\n")
  with pytest.raises(ValueError, match='seed beside a ConfigDict: set the'):
    rlft.run(config, tmp_path / 'other', seed=1)
  assert not (tmp_path / 'other').exists()
  config.num_steps = -1
  with pytest.raises(ValueError, match='whole number from 0'):
    rlft.run(config, tmp_path / 'other')


@pytest.mark.parametrize('said, code', [
    ('UNKNOWN: Gloo AllGather failed: Connection reset by peer', 41),
    ('no preset UNKNOWN: known: tiny', 2)])
def test_a_lost_peer_is_no_mistake_of_the_user(monkeypatch, capsys, said, code):
  def fail(*_):
    raise ValueError(said)

  monkeypatch.setattr(main, 'run', fail)
  assert main.main(['run']) == code
  assert said in capsys.readouterr().err
