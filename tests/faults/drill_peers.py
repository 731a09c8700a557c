"""What becomes of the other processes when one fails, hangs or differs."""
import pytest

from tests.faults import drill


def struck(run_dir, what, variant='sft', **settings):
  return drill.run(
      variant, run_dir, struck=what, processes=2, settings=settings)


def test_an_exception_ends_the_job_with_41_and_is_printed(tmp_path):
  done = struck(tmp_path / 'run', 'raises:update:3:1')
  assert done.code == 41, done.said
  assert done.after < drill.SOON
  assert 'RuntimeError: planted' in done.said
  assert 'this process has failed: exit code 41' in done.said


def test_a_dead_process_ends_the_job(tmp_path):
  done = struck(tmp_path / 'run', 'killed:update:3:1')
  assert done.code == 128 + 9
  assert done.after < drill.SOON


@pytest.mark.parametrize('process', [0, 1])
def test_a_process_that_hangs_is_found_and_told(tmp_path, process):
  done = struck(tmp_path / 'run', f'hangs:update:4:{process}',
                RLFT_STALL_SECONDS='4')
  assert done.code == 43
  assert done.after < 4 + drill.SOON
  assert 'nothing was heard for' in done.said
  assert 'most recent call first' in done.said  # where it was


def test_one_that_never_starts_is_found_by_the_other_deadline(tmp_path):
  done = struck(tmp_path / 'run', 'hangs:digest:1:1',
                RLFT_STARTUP_SECONDS='20', RLFT_STALL_SECONDS='900')
  assert done.code == 43 and 'RLFT_STARTUP_SECONDS=20' in done.said


def test_a_save_that_fails_in_one_process_fails_in_all(tmp_path):
  """Neither waits for the other's part; twice in a row ends the run with 45."""
  done = struck(tmp_path / 'run', 'full:room:2:1')
  assert done.code == 45, done.said
  assert done.after < drill.SOON
  assert 'another process could not write its part' in done.said
  assert 'No space left on device' in done.said
  assert [p.name for p in sorted(
      (tmp_path / 'run' / 'checkpoints').iterdir())] == ['000000']


def test_a_save_that_fails_once_is_made_up_for(tmp_path):
  done = struck(tmp_path / 'run', 'fails:room:2:1')
  assert done.code == 0, done.said
  assert done.said.count('step 3 is not saved') == 2  # each says why
  steps = sorted(p.name for p in (tmp_path / 'run' / 'checkpoints').iterdir())
  assert '000003' not in steps and steps[-1] == '000012'
