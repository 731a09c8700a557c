"""Names that become folders, and links that lead out of a run."""
import json

import pytest

from rlft import config, directory, paths, study, weights
from rlft.checkpoints import rewrite
from rlft.comparison import kept
from rlft.training import checkpoint
from tests import tiny
from tests.command import refused

BAD = ('', '.', '..', '../x', '/x', 'a/../b', 'a//b', 'a/', 'a..b', '-rf',
       '--config', '.hidden', '$(id)', '`id`', 'a b', 'a\nb', 'a\0b', '\x1b[2J',
       'a\\b', 'ﬁne', 'é', '٢', '\ud800', 'a\u202eb', '~', '_a', 'x' * 129)
GOOD = ('sft', 'rl_0020', 'seed0/sft', 'v1.2', 'lr=1e-4', 'A', '0', 'x' * 128)

STUDY = '''
import tests.test_paths

def get_config(variant=''):
  return tests.test_paths.a_study({0!r})
'''


def a_study(*names):
  """Stages of these names, each a run of no steps."""
  stages = {name: study.stage('sft', tiny.sft_config(0)) for name in names}
  made = config.EMPTY(dict(name='toy', order=tuple(names)))
  made.stages = config.EMPTY(allow_dotted_keys=True)
  for name, stage in stages.items():
    made.stages[name] = stage
  return made


@pytest.mark.parametrize('name', BAD)
def test_no_stage_is_called_so(name):
  with pytest.raises(ValueError, match='no name for one: take up to 128') as e:
    paths.below(name, 'the stage')
  assert not paths.is_odd(str(e.value)) and len(str(e.value)) < 300
  assert not paths.is_below(name)


@pytest.mark.parametrize('name', GOOD)
def test_a_stage_may_be_called_so(name):
  assert paths.below(name, 'the stage') == name
  config.validate(a_study(name))


@pytest.mark.parametrize('value', [None, 3, b'sft', ['sft']])
def test_only_a_text_is_a_name(value):
  assert not paths.is_below(value)


@pytest.mark.parametrize('name', [
    '../escaped', '-rf', '$(id)', 'a\0b', 'ﬁne', 'a b', 'x' * 129])
def test_a_study_with_such_a_stage_is_not_begun(name, tmp_path, capfd):
  file = tmp_path / 'in' / 'toy.py'
  file.parent.mkdir()
  file.write_text(STUDY.format(name))
  said = refused(['run', f'--config={file}',
                  f'--run_dir={tmp_path / "out" / "study"}'], capfd)
  assert 'the stage' in said and 'take up to 128' in said
  assert [p.name for p in tmp_path.iterdir()] == ['in']


@pytest.mark.parametrize('names, said', [
    (['stages.json'], 'a file of its own'),
    (['config.json/x'], 'a file of its own'),
    (['a', 'a/checkpoints'], 'a/checkpoints would lie inside the stage a')])
def test_a_stage_has_a_folder_of_its_own(names, said):
  with pytest.raises(ValueError, match=said):
    config.validate(a_study(*names))
  config.validate(a_study('a', 'ab', 'b/a', 'b/c'))


def test_the_files_of_a_study_are_no_stages():
  assert {*directory.RECORDS} - {directory.LOCK} <= set(config.OWN)


@pytest.mark.parametrize('name, said', [
    ('s3:/bucket/run', 's3:// cannot be written to'),
    ('-rf', 'does not begin with -'), ('runs/-rf', 'does not begin with -'),
    ('a\nb', 'control'), ('a\0b', 'control'), ('a\0/b', 'control'),
    ('a\u202eb', 'control'), ('\ud800', 'control'), ('a/\x7f', 'control'),
    ('x' * 201, 'too long')])
def test_no_directory_is_called_so(name, said, tmp_path, capfd, monkeypatch):
  monkeypatch.chdir(tmp_path)
  file = tmp_path / 'toy.py'
  file.write_text('import tests.tiny\n\n'
                  'def get_config(variant):\n'
                  '  return tests.tiny.sft_config(0)\n')
  assert said in refused(
      ['run', f'--config={file}', f'--run_dir={name}'], capfd)
  for refuse in (kept.vacant, rewrite.refuse):
    with pytest.raises(ValueError, match=said):
      refuse(paths.Path(name))
  assert [p.name for p in tmp_path.iterdir()] == ['toy.py']


@pytest.mark.parametrize('name', [
    'a toy', 'läufe', 'lr=0.1,seed=2', '.', '..', '/', 'C:/x', '.hidden', '~'])
def test_a_directory_may_be_called_so(name):
  assert paths.chosen(name, '--run_dir') == paths.Path(name)


@pytest.fixture
def world(tmp_path):
  """A run directory, and a place outside that must stay as it is."""
  run_dir, outside = tmp_path / 'run', tmp_path / 'outside'
  for step in ('000002', '000004'):
    (outside / step).mkdir(parents=True)
    (outside / step / 'commit_success.txt').touch()
  (outside / 'mine.txt').write_text('mine')
  run_dir.mkdir()
  return run_dir, outside


def everything(folder):
  return sorted((str(p), p.is_symlink() or p.is_dir() or p.read_bytes())
                for p in folder.rglob('*'))


@pytest.mark.parametrize('at, to', [
    ('checkpoints', ''), ('checkpoints/000002', '000002'),
    ('command.txt', 'mine.txt'), ('config.json', 'mine.txt'),
    ('samples', ''), ('sft', ''), ('seed0/sft', ''),
    ('seed0/sft/checkpoints', ''), ('seed0/sft/checkpoints/000004', '000004'),
    ('sft', 'nowhere'), ('.lock', 'new')])
def test_a_link_that_leads_out_is_refused(world, at, to):
  """Retention, STEP.corrupt and what is taken back would be outside."""
  run_dir, outside = world
  (run_dir / at).parent.mkdir(parents=True, exist_ok=True)
  (run_dir / at).symlink_to(outside / to)
  before = everything(run_dir.parent)
  with (pytest.raises(ValueError, match=f'{at} is a link that leads out of'),
        directory.claim(run_dir)):
    raise AssertionError
  assert everything(run_dir.parent) == before


def test_a_circle_of_links_leads_nowhere(world):
  run_dir, _ = world
  (run_dir / 'checkpoints').symlink_to(run_dir / 'checkpoints')
  with directory.claim(run_dir):
    pass


def test_a_link_inside_and_a_link_to_the_run_are_followed(world):
  run_dir, _ = world
  (run_dir / 'checkpoints' / '000002').mkdir(parents=True)
  (run_dir / 'latest').symlink_to('checkpoints/000002')
  other = run_dir.with_name('by_another_name')
  other.symlink_to(run_dir)
  with directory.claim(other):
    pass
  assert (run_dir / '.lock').exists()


def test_what_is_taken_back_is_the_runs_own(world):
  """The records of a refused run, not what a link to it stands for."""
  run_dir, outside = world
  other = run_dir.with_name('by_another_name')
  other.symlink_to(run_dir)
  before = everything(outside)
  with pytest.raises(ValueError, match='no'), directory.claim(other):
    directory.explain(other, 'rlft run')
    raise ValueError('no')
  assert other.is_symlink() and run_dir.is_dir()
  assert not list(run_dir.iterdir()) and everything(outside) == before


def test_a_damaged_step_is_set_aside_in_its_own_run(world):
  """Renaming takes a link for itself: what it names stays where it is."""
  run_dir, outside = world
  (run_dir / 'checkpoints').mkdir()
  step = run_dir / 'checkpoints' / '000002'
  step.symlink_to(outside / '000002')
  before = everything(outside)
  assert checkpoint._set_aside(step) == 'renamed 000002.corrupt'
  assert {p.name for p in step.parent.iterdir()} == {'000002.corrupt'}
  assert everything(outside) == before


def test_a_comparison_throws_away_its_own_parts_only(world):
  out, outside = world
  (out / kept.UNFINISHED).symlink_to(outside)
  with pytest.raises(ValueError, match='unfinished is a link that leads out'):
    kept.vacant(out)
  (out / kept.UNFINISHED).unlink()
  kept.vacant(out)


@pytest.mark.parametrize('name', [
    'asset:../assets/points24_nano', 'asset:/etc/hostname', 'asset:..',
    'asset:', f'asset:{weights.tokenizer.ASSETS}/points24_nano'])
def test_an_asset_is_one_of_those_shipped(name):
  for load in (weights.config_of, weights.verify, weights.load):
    with pytest.raises(ValueError, match=r'no asset .*; known: points24_nano'):
      load(name)
  with pytest.raises(ValueError, match=r'the asset .* no name for one'):
    weights.tokenizer.load(name)


def made_of(folder, init):
  (folder / 'checkpoints').mkdir(parents=True)
  (folder / 'config.json').write_text(json.dumps({'init': init, 'base': ''}))


def test_runs_that_go_back_to_each_other_go_back_to_nothing(tmp_path):
  made_of(tmp_path / 'a', f'{tmp_path}/b@2')
  made_of(tmp_path / 'b', f'{tmp_path}/a@2')
  made_of(tmp_path / 'c', f'{tmp_path}/c@2')
  for name in 'abc':
    with pytest.raises(ValueError, match='does not go back to a Hugging Face'):
      weights.origin(f'{tmp_path}/{name}@2')


def test_a_name_in_a_config_stays_in_its_study(tmp_path):
  (tmp_path / 'study' / 'rl').mkdir(parents=True)
  (tmp_path / 'study' / 'stages.json').touch()
  (tmp_path / 'study' / 'sft').mkdir()
  (tmp_path / 'elsewhere').mkdir()
  rl = tmp_path / 'study' / 'rl'
  assert weights.located('sft@2', rl) == f'{tmp_path}/study/sft@2'
  for name in ('../elsewhere@2', f'{tmp_path}/elsewhere@2', 'rl/../sft@2'):
    assert weights.located(name, rl) == name


@pytest.mark.parametrize('step', [
    '9' * 5000, '٢' * 200, '-1', '', '²', '2 ', '0x2', '2\n', '../2'])
def test_a_step_is_a_number_that_was_saved(step, tmp_path):
  saved = tmp_path / 'run' / 'checkpoints' / '000002'
  (saved / 'params').mkdir(parents=True)
  (saved / 'commit_success.txt').touch()
  assert checkpoint.find(f'{tmp_path}/run@2') == saved / 'params'
  with pytest.raises(ValueError, match=r'no step|names no checkpoint'):
    checkpoint.find(f'{tmp_path}/run@{step}')


def test_a_message_has_one_line_of_a_bearable_length():
  assert paths.shown('läufe/a b') == 'läufe/a b'
  assert paths.shown('a\nb\x1b') == r"'a\nb\x1b'"
  assert paths.shown('\u202e\ud800') == r"'\u202e\ud800'"
  assert len(paths.shown('a' * 10_000)) == 203
