"""Processes that differ stop, and say in what."""
import socket
import subprocess
import sys

from tests.faults import drill


def several(*words, count=2):
  return subprocess.run(
      [sys.executable, 'launch/local.py', '-n', str(count), '--grace=2', '--',
       sys.executable, *words], cwd=drill.ROOT, env=drill.environment(1),
      capture_output=True, text=True, timeout=120, check=False)


def test_each_field_of_the_digest_is_named():
  done = several('-m', 'tests.faults.disagree')
  assert done.returncode == 0, done
  assert 'all fields were named' in done.stdout


def test_processes_of_different_configs_stop(tmp_path):
  """The second one has another seed: told in a line, and nothing is written."""
  program = (
      'import os, sys; from rlft import main; '
      'word = ["sft", "sft,seeded"][int(os.environ["RLFT_PROCESS_ID"])]; '
      'sys.exit(main.main(["run", "--config=tests/faults/runs.py:" + word, '
      f'"--run_dir={tmp_path}/run"]))')
  done = several('-c', program)
  assert done.returncode == 41, done
  assert 'rlft: the processes differ in config: [1]' in done.stdout
  assert 'Traceback' not in done.stdout + done.stderr
  assert not (tmp_path / 'run').exists()


def test_a_port_that_is_taken_is_told(tmp_path):
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    done = subprocess.run(
        drill.command('sft', tmp_path / 'run'), cwd=drill.ROOT, text=True,
        env=drill.environment(
            1, RLFT_COORDINATOR=f'127.0.0.1:{taken.getsockname()[1]}',
            RLFT_NUM_PROCESSES='2', RLFT_PROCESS_ID='0'),
        capture_output=True, timeout=60, check=False)
  assert done.returncode == 2
  assert done.stderr.startswith('rlft: RLFT_COORDINATOR=127.0.0.1:')
  assert 'Address already in use' in done.stderr.splitlines()[0]
  assert not (tmp_path / 'run').exists()


def test_half_of_what_names_a_process_is_refused(tmp_path):
  done = subprocess.run(
      drill.command('sft', tmp_path / 'run'), cwd=drill.ROOT, text=True,
      env=drill.environment(1, RLFT_COORDINATOR='127.0.0.1:1'),
      capture_output=True, timeout=60, check=False)
  assert done.returncode == 2
  assert 'RLFT_NUM_PROCESSES' in done.stderr
