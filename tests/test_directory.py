"""A run directory: one process at a time, and a record that is added to."""
import hashlib
import subprocess
import sys

import jax
import pytest

from rlft import directory

HOLD = '''
import pathlib, sys
from rlft import directory
with directory.claim(pathlib.Path(sys.argv[1])):
  print('held', flush=True)
  sys.stdin.read()
'''


def test_two_processes_do_not_share_a_directory(tmp_path):
  """The system drops the lock of a process that is killed."""
  run_dir = tmp_path / 'a' / 'run'
  with subprocess.Popen(
      [sys.executable, '-c', HOLD, str(run_dir)], stdin=subprocess.PIPE,
      stdout=subprocess.PIPE, text=True) as other:
    assert other.stdout.readline() == 'held\n'
    with (pytest.raises(ValueError, match=r'another process is at work in .*'
                        r'run: wait for it, or choose another --run_dir'),
          directory.claim(run_dir)):
      raise AssertionError
    assert run_dir.is_dir()
    other.kill()
  with (directory.claim(run_dir),
        pytest.raises(ValueError, match='at work'),
        directory.claim(run_dir)):
    raise AssertionError


def test_a_file_system_without_locks_has_none(tmp_path, monkeypatch):
  def refuse(*_):
    raise OSError('no locks')

  monkeypatch.setattr(directory.fcntl, 'flock', refuse)
  with directory.claim(tmp_path), directory.claim(tmp_path):
    pass


def refused(run_dir, *written, error=ValueError):
  with pytest.raises(error), directory.claim(run_dir):
    directory.explain(run_dir, 'rlft run')
    for name in written:
      (run_dir / name).write_text('x')
    raise error


def test_what_is_refused_at_once_is_not_begun(tmp_path):
  refused(tmp_path / 'a' / 'b')
  assert not list(tmp_path.iterdir())
  (tmp_path / 'mine').mkdir()
  refused(tmp_path / 'mine')
  assert not list((tmp_path / 'mine').iterdir())


@pytest.mark.parametrize('written, error', [
    ('metrics.jsonl', ValueError), ('config.json', KeyboardInterrupt)])
def test_what_was_begun_is_kept(tmp_path, written, error):
  refused(tmp_path, written, error=error)
  names = {'.lock', 'command.txt', 'git.txt', 'machine.txt', written}
  assert {p.name for p in tmp_path.iterdir()} == names
  refused(tmp_path)  # by a later command
  assert {p.name for p in tmp_path.iterdir()} == names


def test_records_are_added_to(tmp_path, monkeypatch):
  def record(command, state):
    monkeypatch.setattr(directory, 'git_state', lambda: state)
    directory.explain(tmp_path, command)
    return ((tmp_path / 'command.txt').read_text().splitlines(),
            (tmp_path / 'git.txt').read_text())

  commands, state = record('one', 'abc\n')
  assert commands == ['one'] and state == 'abc\n'
  commands, state = record('two', 'abc\n')
  assert commands[::2] == ['one', 'two'] and commands[1].startswith('# again, ')
  assert state == 'abc\n'  # the code is the same
  _, state = record('three', 'abc\n+x\n')
  assert state == 'abc\n\n# gone on with:\nabc\n+x\n'
  assert record('four', 'abc\n+x\n')[1] == state


def test_a_command_that_is_no_text_is_recorded(tmp_path):
  directory.explain(tmp_path, 'rlft run --config=\udcff.py')
  assert (tmp_path / 'command.txt').read_text() == (
      'rlft run --config=\\udcff.py\n')


def test_the_machine_is_recorded_once(tmp_path, monkeypatch):
  directory.explain(tmp_path, 'one')
  directory.explain(tmp_path, 'two')
  versions, devices, kernel = (
      tmp_path / 'machine.txt').read_text().splitlines()
  assert f'jax {jax.__version__}' in versions
  assert devices.startswith(f'{len(jax.devices())} cpu')
  assert kernel == 'attention: einsum'
  monkeypatch.setattr(directory.attention, 'kernel', lambda: 'another')
  directory.explain(tmp_path, 'three')
  assert (tmp_path / 'machine.txt').read_text().endswith('attention: another\n')


@pytest.fixture
def repository(tmp_path):
  """A repository with one tracked file of code."""
  code = tmp_path / 'rlft'
  code.mkdir()
  (code / 'main.py').write_text('x = 1\n')
  for words in (('init', '-q'), ('add', '.'), (
      '-c', 'user.name=a', '-c', 'user.email=a@b', 'commit', '-qm', 'c')):
    subprocess.run(['git', *words], cwd=tmp_path, check=True)
  return code


def test_the_state_of_the_code_has_its_changes_and_its_new_files(repository):
  commit = directory.git_state(repository)
  assert len(commit) == 41 and commit.endswith('\n')
  top = repository.parent
  (repository / 'main.py').write_text('x = 2\n')
  (top / 'configs').mkdir()
  (top / 'configs' / 'mine.py').write_text('y = 3\n')
  (top / 'notes.txt').write_text('not code')
  (repository / 'new.bin').write_bytes(b'\0\1')
  state = directory.git_state(repository)
  assert state.startswith(commit)
  assert '-x = 1\n+x = 2\n' in state and '+y = 3\n' in state
  digest = hashlib.sha256(b'\0\1').hexdigest()
  assert f'new file rlft/new.bin, sha256 {digest}\n' in state
  assert 'not code' not in state


def test_code_that_nobody_tracks_has_no_state(repository, monkeypatch):
  installed = repository.parent / 'site-packages'
  installed.mkdir()
  (installed / 'main.py').write_text('x = 1\n')
  assert directory.git_state(installed) == ''
  monkeypatch.setenv('PATH', '')  # nor is there git
  assert directory.git_state(repository) == ''
