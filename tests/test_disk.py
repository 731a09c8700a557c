"""A run on a disk in trouble goes on, or ends with one line and code 45."""
import os
import shutil
import signal
import subprocess
import time

import pytest

from rlft import binding, directory, main
from rlft.training import checkpoint, disk, metrics, seal
from rlft.types import Source
from tests import tiny
from tests.command import refused
from tests.test_train import bits, built, job_of, rows_of, run
from tests.training.test_saving import USAGE, fill_up, small_disk

__all__ = ['small_disk']  # a fixture

FILE = '''
import tests.tiny

def get_config(variant=''):
  return tests.tiny.sft_config()
'''


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """(directory, last state) of a run that had no trouble."""
  run_dir = tmp_path_factory.mktemp('whole')
  return run_dir, run('sft', run_dir, job_of('sft'))


@pytest.fixture
def file(tmp_path):
  path = tmp_path / 'config.py'
  path.write_text(FILE)
  return path


def with_room(monkeypatch, *saves):
  """Whether there is room at each save that is due."""
  left = list(saves)
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: USAGE(
      0, 0, 10**12 * left.pop(0)))


def struck(call, blow):
  """The job, whose source deals a blow in the call-th step."""
  source, calls = built('sft').source, []

  def next_batch(*args):
    calls.append(1)
    if len(calls) == 1 + call:  # the first is the check's
      blow()
    return source.next(*args)

  return job_of('sft', source=Source(source.init, next_batch))


def test_a_failed_save_changes_nothing_else(
    whole, tmp_path, monkeypatch, capfd):
  with_room(monkeypatch, 1, 0, 1)
  assert bits(run('sft', tmp_path, job_of('sft'))) == bits(whole[1])
  assert seal.steps(tmp_path) == [0, 4]
  assert rows_of(tmp_path) == rows_of(whole[0])
  told = [line for line in capfd.readouterr().err.splitlines() if line]
  assert len(told) == 1 and 'step 2 is not saved: ' in told[0]


@pytest.mark.parametrize('saves, left', [((1, 0, 0), [0]), ((1, 1, 0), [0, 2])])
def test_a_run_that_could_not_save_ends_as_one_that_could(
    whole, tmp_path, monkeypatch, saves, left):
  """Two in a row, or the last one; started again with room, it goes on."""
  with_room(monkeypatch, *saves)
  with pytest.raises(disk.Unsaved, match=rf'{tmp_path}@{left[-1]} is whole'):
    run('sft', tmp_path, job_of('sft'))
  assert seal.steps(tmp_path) == left
  monkeypatch.undo()
  assert bits(run('sft', tmp_path, job_of('sft'))) == bits(whole[1])
  assert rows_of(tmp_path) == rows_of(whole[0])
  for step in (left[-1], 4):
    assert bits(checkpoint.load_params(f'{tmp_path}@{step}')) == bits(
        checkpoint.load_params(f'{whole[0]}@{step}'))


def test_a_run_that_was_taken_away_and_could_not_save_says_so(
    whole, tmp_path, monkeypatch):
  with_room(monkeypatch, 1, 1, 0)
  job = struck(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
  with pytest.raises(disk.Unsaved, match=r'step 3 is .* the last one, .*@2'):
    run('sft', tmp_path, job)
  assert seal.steps(tmp_path) == [0, 2]


def test_a_disk_that_fills_up_under_the_command(
    whole, small_disk, file, monkeypatch, capfd):
  """Nothing more can be logged; with room again, the same command goes on."""
  run_dir = small_disk / 'run'
  command = ['run', f'--config={file}', f'--run_dir={run_dir}']
  monkeypatch.setattr(disk, 'room', lambda *_: None)

  def blow():
    while seal.steps(run_dir) != [0, 2]:  # it is written in the background
      time.sleep(0.01)
    fill_up(small_disk)

  jobs = [struck(4, blow), job_of('sft')]
  monkeypatch.setattr(binding, 'build', lambda config: jobs.pop(0))
  assert main.main(command) == 45
  said = capfd.readouterr().err  # of which file depends on what was left
  assert said.startswith(f'rlft: cannot write {run_dir}/')
  assert said.endswith(f': No space left on device; {disk.AGAIN}\n')
  assert said.count('\n') == 1
  (small_disk / 'filler').unlink()
  assert seal.steps(run_dir) == [0, 2]
  assert main.main(command) == 0
  assert rows_of(run_dir) == rows_of(whole[0])


def test_no_room_for_two_saves_ends_the_command_with_45(
    tmp_path, file, monkeypatch, capfd):
  with_room(monkeypatch, 1, 0, 0)
  monkeypatch.setattr(binding, 'build', lambda config: job_of('sft'))
  assert main.main(
      ['run', f'--config={file}', f'--run_dir={tmp_path / "run"}']) == 45
  first, last = capfd.readouterr().err.splitlines()
  assert first.startswith('rlft: step 2 is not saved: cannot write ')
  assert last.startswith('rlft: step 4 is not saved: cannot write ')
  assert f'{tmp_path}/run@0 is whole: make room there, or ' in last


def test_a_read_only_disk_is_refused_at_the_start(small_disk, file, capfd):
  subprocess.run(['mount', '-o', 'remount,ro', str(small_disk)], check=True)
  line = refused(
      ['run', f'--config={file}', f'--run_dir={small_disk / "run"}'], capfd)
  assert 'Read-only file system' in line and 'choose another --run_dir' in line


@pytest.mark.parametrize('write', [
    lambda path: metrics.append(path, {'step': 1}),
    lambda path: metrics.write(metrics.Writer(path.with_name('a'), path), 1, {
        'loss': 1.0})], ids=['row', 'events'])
def test_a_file_that_cannot_be_written_is_named(tmp_path, write):
  path = tmp_path / 'full'
  path.symlink_to('/dev/full')
  with pytest.raises(disk.Unsaved, match=r'cannot write .*/full: No space'):
    write(path)


def test_a_config_is_written_whole_or_not_at_all(tmp_path):
  (tmp_path / 'config.json.tmp').symlink_to('/dev/full')
  with pytest.raises(OSError, match='No space left'):
    directory.write_once(tmp_path / 'config.json', tiny.sft_config())
  assert not (tmp_path / 'config.json').exists()
