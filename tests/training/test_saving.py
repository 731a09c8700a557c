"""A save may fail; the newest whole step may not be lost."""
import contextlib
import errno
import resource
import shutil
import subprocess
import time
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.ops import alarms
from rlft.training import checkpoint, disk, saving, seal
from tests.training.test_checkpoint import bits
from tests.training.test_checkpoint import state_at as small

USAGE = namedtuple('USAGE', 'total used free')
LINE = ('rlft: step {} is not saved: cannot write {}: {}; {} is whole, and the '
        'next save that is due tries again\n')


@pytest.fixture(autouse=True)
def collected():
  """What a test left to be collected is not to be heard of in another one."""
  yield
  disk.collect()


def state_at(step):
  """100 kB that do not compress, and differ from step to step."""
  noise = np.random.default_rng(step).normal(size=25_000).astype(np.float32)
  state = small(step)
  return state._replace(params={**state.params, 'noise': jnp.asarray(noise)})


@contextlib.contextmanager
def opened(run_dir, keep=0):
  with checkpoint.open_manager(run_dir) as manager:
    yield saving.Saver(manager, keep=keep)


def save(saver, *steps):
  for step in steps:
    saver.save(state_at(step), {'seen': step}, {})


@contextlib.contextmanager
def refusing():
  """Files of this process cannot grow beyond 16 KiB, as on a full disk."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fail(saver, step):
  """A save that begins, and cannot be written; nobody has waited for it."""
  saver.settle()
  with refusing():
    save(saver, step)
    while saver.manager.is_saving_in_progress():
      time.sleep(0.01)


def names(run_dir):
  return sorted(p.name for p in (run_dir / 'checkpoints').iterdir())


def assert_whole(run_dir, step):
  assert seal.sealed(run_dir, step)['source'] == {'seen': step}
  with checkpoint.open_manager(run_dir) as manager:
    state, _ = checkpoint.restore(manager, step, state_at(0))
  assert bits(state) == bits(state_at(step))


@pytest.mark.parametrize('keep, left', [(0, [1, 2, 3]), (1, [3]), (2, [2, 3])])
def test_the_newest_are_kept(tmp_path, keep, left):
  with opened(tmp_path, keep) as saver:
    for step in (1, 2, 3):
      save(saver, step)
      # one more than is kept, while nobody knows of the newest
      assert len(saver.manager.all_steps()) <= (keep or 3) + 1
    saver.finish()
    assert saver.manager.all_steps() == left
  assert seal.steps(tmp_path) == left
  assert names(tmp_path) == [f'{step:06d}' for step in left]


def test_a_failed_save_is_told_and_the_next_one_tries_again(tmp_path, capfd):
  with opened(tmp_path, keep=1) as saver:
    save(saver, 0)
    fail(saver, 2)
    save(saver, 4)  # settles that of 2
    assert capfd.readouterr().err == LINE.format(
        2, tmp_path / 'checkpoints' / '000002', 'File too large',
        f'{tmp_path}@0')
    assert '000002' not in names(tmp_path) and '000000' in names(tmp_path)
    saver.finish()
    save(saver, 6)
    fail(saver, 8)  # not the second in a row
    save(saver, 10)
    saver.finish()
  assert capfd.readouterr().err.count('\n') == 1
  assert seal.steps(tmp_path) == [10]
  assert_whole(tmp_path, 10)


@pytest.mark.parametrize('keep', [0, 1])
def test_two_in_a_row_end_the_run_and_the_older_step_survives(
    tmp_path, capfd, keep):
  with (pytest.raises(disk.Unsaved) as error, opened(tmp_path, keep) as saver):
    save(saver, 0, 2)
    fail(saver, 4)
    fail(saver, 6)
    save(saver, 8)
  assert str(error.value) == (
      f'step 6 is not saved: cannot write {tmp_path}/checkpoints/000006: File '
      f'too large; this save failed, the second in a row, {tmp_path}@2 is '
      f'whole: {disk.AGAIN} from there')
  assert error.value.exit_code == 45
  assert capfd.readouterr().err.count('\n') == 1
  assert seal.steps(tmp_path) == ([2] if keep else [0, 2])
  assert names(tmp_path)[-1] == '000002'
  assert_whole(tmp_path, 2)


def test_the_last_save_may_not_fail(tmp_path, capfd):
  with (pytest.raises(disk.Unsaved, match=r'step 0 is .* the last one, no s'),
        opened(tmp_path) as saver):
    fail(saver, 0)
    saver.finish()
  assert not names(tmp_path)


def test_a_save_that_cannot_begin_has_failed(tmp_path, capfd, monkeypatch):
  def full(*_, **__):
    raise OSError(errno.ENOSPC, 'No space left on device')

  with opened(tmp_path) as saver:
    save(saver, 0)
    saver.settle()
    monkeypatch.setattr(saver.manager, 'save', full)
    save(saver, 2)
    monkeypatch.undo()
    assert capfd.readouterr().err == LINE.format(
        2, tmp_path / 'checkpoints' / '000002', 'No space left on device',
        f'{tmp_path}@0')
    save(saver, 4)
    saver.finish()
  assert seal.steps(tmp_path) == [0, 4]


def test_an_error_of_the_last_save_is_not_one_of_this(
    tmp_path, capfd, monkeypatch):
  """The library tells what a thread of the save before found, late."""
  with opened(tmp_path) as saver:
    fail(saver, 2)
    saver.settle()
    plain, told = saver.manager.save, [OSError('of 2')]

    def late(*given, **options):
      if told:
        raise told.pop()
      return plain(*given, **options)

    monkeypatch.setattr(saver.manager, 'save', late)
    save(saver, 4)
    saver.finish()
  assert capfd.readouterr().err.count('\n') == 1
  assert seal.steps(tmp_path) == [4]


def test_without_room_nothing_is_written(tmp_path, capfd, monkeypatch):
  need = saving.ROOM * saving.size(state_at(0))
  free = [need, need - 1, need, need - 1, need - 1]
  monkeypatch.setattr(
      shutil, 'disk_usage', lambda _: USAGE(0, 0, free.pop(0)))
  with (pytest.raises(disk.Unsaved, match=r'step 8 .* second in a row, .*@4 '),
        opened(tmp_path) as saver):
    save(saver, 0)
    saver.settle()
    before = sorted(tmp_path.rglob('*'))
    save(saver, 2)
    assert sorted(tmp_path.rglob('*')) == before
    assert capfd.readouterr().err == (
        f'rlft: step 2 is not saved: cannot write {tmp_path}/checkpoints: 0.2 '
        f'MB are free there and a save may need 0.2; {tmp_path}@0 is whole, '
        'and the next save that is due tries again\n')
    save(saver, 4, 6, 8)
  assert seal.steps(tmp_path) == [0, 4]


def spoil_seal(folder):
  (folder / 'seal' / 'metadata').write_text('{}')


@pytest.mark.parametrize('spoil, told', [
    (lambda folder: shutil.rmtree(folder / 'rest'), 'is not complete'),
    (lambda folder: (folder / 'commit_success.txt').unlink(), 'not complete'),
    (lambda folder: shutil.rmtree(folder), 'is not complete'),
    (spoil_seal, 'cannot be read back')])
def test_what_the_library_calls_saved_is_looked_at(
    tmp_path, capfd, monkeypatch, spoil, told):
  with opened(tmp_path, keep=1) as saver:
    save(saver, 0, 2)
    wait = saver.manager.wait_until_finished

    def spoiling():
      wait()
      spoil(tmp_path / 'checkpoints' / '000002')

    monkeypatch.setattr(saver.manager, 'wait_until_finished', spoiling)
    saver.settle()
    monkeypatch.undo()
    assert told in capfd.readouterr().err
    assert saver.manager.all_steps() == [0]
    assert names(tmp_path) == ['000000']
  assert_whole(tmp_path, 0)


def test_what_is_no_trouble_of_the_disk_goes_on_as_it_is(tmp_path, monkeypatch):
  oom = jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')
  with opened(tmp_path) as saver:
    for error in (oom, MemoryError('host')):
      def raising(*_, error=error, **__):
        raise error
      monkeypatch.setattr(saver.manager, 'save', raising)
      with pytest.raises(type(error)):
        save(saver, 2)
    with pytest.raises(alarms.Halt):
      saver.save(state_at(2)._replace(params={'w': jnp.ones(2) / 0}), 0, {})
    assert not saver.failed


def test_a_failure_nobody_waited_for_is_told_at_the_end(tmp_path, capfd):
  with (pytest.raises(disk.Unsaved, match='File too large; make room'),
        opened(tmp_path / 'a') as saver):
    fail(saver, 0)
  with (pytest.raises(KeyError, match='mine'), opened(tmp_path / 'b') as saver):
    fail(saver, 0)
    raise KeyError('mine')  # which says more
  with pytest.raises(disk.Unsaved, match='File too large'), refusing():
    checkpoint.save_params(tmp_path / 'c', 0, state_at(0).params)
  assert capfd.readouterr().err == ''


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 4 MB of its own."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  done = subprocess.run(
      ['mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', str(folder)],
      capture_output=True, text=True, check=False)
  if done.returncode:
    pytest.skip(f'no file system can be mounted here: {done.stderr.strip()}')
  yield folder
  subprocess.run(['umount', '--lazy', str(folder)], check=True)


def fill_up(folder):
  with (contextlib.suppress(OSError),
        (folder / 'filler').open('ab', 0) as file):
    while file.write(bytes(2**12)):
      pass


def test_a_full_disk(small_disk, capfd, monkeypatch):
  """Really full: the room is looked at before, and taken while it writes."""
  monkeypatch.setattr(disk, 'room', lambda *_: None)
  with opened(small_disk, keep=1) as saver:
    save(saver, 0)
    saver.settle()
    fill_up(small_disk)
    save(saver, 2)
    saver.settle()
    assert 'No space left on device; ' in capfd.readouterr().err
    assert names(small_disk) == ['000000']
    (small_disk / 'filler').unlink()
    save(saver, 4)
    saver.finish()
    with pytest.raises(disk.Unsaved, match='@4 is whole'):
      fill_up(small_disk)
      save(saver, 6, 8, 10)
  assert seal.steps(small_disk) == [4]
  assert_whole(small_disk, 4)


def test_a_disk_that_turns_read_only(small_disk, capfd):
  def mounted(how):
    subprocess.run(['mount', '-o', f'remount,{how}', str(small_disk)],
                   check=True)

  with opened(small_disk, keep=1) as saver:
    save(saver, 0, 2)
    saver.manager.wait_until_finished()
    mounted('ro')
    save(saver, 4)  # neither is 4 written, nor 0 deleted
    saver.settle()
    assert 'step 4 is not saved: ' in capfd.readouterr().err
    assert seal.steps(small_disk) == [0, 2]
    with pytest.raises(disk.Unsaved, match=r'Read-only file system.*@2 is wh'):
      save(saver, 6)
      saver.settle()
    mounted('rw')
    save(saver, 8)
    saver.finish()
  assert seal.steps(small_disk) == [8]
