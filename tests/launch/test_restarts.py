"""What the launchers do with exit codes and signals, by fake tools."""
import os
import signal
import subprocess
import time

import pytest

from tests.launch.conftest import ROOT

STUDY = 'tests/fixtures/launch/study.py'
ASKED = ('study', STUDY, '--accelerator=v5e:2x2', '--zone=us-west4-a',
         '--project=my-project', '--image=image',
         '--run_dir=gs://my-bucket/runs/demo')
NASTY = '--config.name=a b; touch INJECTED $(touch INJECTED) "\' *'


def appears(file):
  """Waits for a file."""
  end = time.monotonic() + 60
  while not file.exists():
    assert time.monotonic() < end, f'{file} does not appear'
    time.sleep(.01)


def tpu_vm(world, *plan, more=()):
  world.plan(*plan)
  return world.run('launch/tpu_vm.sh', *ASKED, *more)


def verbs(world):
  """Of gcloud, less the questions."""
  found = [' '.join(words[3:4]) for words in world.calls('gcloud')]
  return [verb for verb in found if verb != 'list']


def test_42_and_signals_start_again_until_it_is_done(world):
  done = tpu_vm(world, '42', 'killed', '0')
  assert done.returncode == 0, done.stderr
  names = [w for words in world.calls('docker') for w in words
           if w.startswith('--name=')]
  assert names == ['--name=demo.0', '--name=demo.1', '--name=demo.2']
  assert verbs(world) == [
      'create', 'scp', 'ssh', 'ssh', 'scp', 'ssh', 'ssh', 'scp', 'ssh']
  assert 'delete' not in verbs(world)
  assert 'a-secret' not in (world.folder / 'calls').read_text()


@pytest.mark.parametrize('code', [2, 41])
def test_a_fault_is_not_started_again(world, code):
  done = tpu_vm(world, str(code), '0', more=('--delete=true',))
  assert done.returncode == code
  assert len(world.calls('rlft')) == 1
  assert verbs(world)[-1] == 'delete'


def test_there_is_a_limit(world):
  done = tpu_vm(world, '42', '42', '0', more=('--restarts=1',))
  assert done.returncode == 42 and len(world.calls('rlft')) == 2
  assert 'which is the limit' in done.stderr


def test_a_slice_that_was_taken_away_is_asked_for_again(world):
  done = tpu_vm(world, 'taken', '0')
  assert done.returncode == 0, done.stderr
  assert verbs(world)[4:6] == ['delete', 'create']


def test_a_slice_that_is_there_is_taken_and_a_failed_one_is_told(world):
  (world.folder / 'state').write_text('ACTIVE')
  assert tpu_vm(world, '0').returncode == 0
  (world.folder / 'state').write_text('FAILED')
  done = tpu_vm(world, '0')
  assert done.returncode == 2 and 'cannot be had' in done.stderr
  assert 'create' not in verbs(world)


def test_gcloud_that_does_not_answer_is_told(world):
  (world.folder / 'state').write_text('MUTE')
  done = tpu_vm(world, '0')
  assert done.returncode == 2 and 'gcloud does not say' in done.stderr
  assert len(world.calls('gcloud')) == 1


def worker(world, name):
  done = world.run('launch/worker.sh', 'run', name,
                   'us-docker.pkg.dev/p/r/image', '--', 'rlft', 'run')
  return done.returncode, [words[0] for words in world.calls('docker')]


def test_a_host_whose_connection_was_lost_goes_on_watching(world):
  (world.folder / 'containers').write_text('demo.0')
  (world.folder / 'demo.0.code').write_text('42')
  assert worker(world, 'demo.0') == (42, ['ps', 'logs', 'wait'])


def test_a_host_ends_what_ran_before(world):
  (world.folder / 'containers').write_text('demo.0 demo.1')
  world.plan('0')
  assert worker(world, 'demo.2') == (0, [
      'ps', 'ps', *['stop', 'rm'] * 2, 'run', 'logs', 'wait'])
  assert ['stop', '-t', '60', 'demo.1'] in world.calls('docker')
  assert world.calls('gcloud') == [
      ['auth', 'configure-docker', 'us-docker.pkg.dev', '--quiet']]


def test_sigterm_reaches_python_on_the_hosts_and_nothing_starts_again(world):
  world.plan('wait', '0')
  process = world.start('launch/tpu_vm.sh', *ASKED)
  appears(world.folder / '0.pid')
  process.send_signal(signal.SIGTERM)
  told = process.communicate(timeout=60)
  assert process.returncode == 42, told
  assert len(world.calls('rlft')) == verbs(world).count('scp') == 1


def test_what_was_typed_arrives_as_typed(world):
  done = tpu_vm(world, '0', more=(NASTY,))
  assert done.returncode == 0, done.stderr
  assert world.calls('rlft') == [[
      'run', f'--config={STUDY}', '--run_dir=gs://my-bucket/runs/demo', NASTY]]
  assert not [*world.folder.glob('INJ*'), *ROOT.glob('INJ*')]


def test_xpk_hands_on_words_and_sigterm(world):
  world.plan('wait')
  process = world.start('launch/xpk.sh', *ASKED, '--cluster=c', NASTY)
  appears(world.folder / '0.pid')
  assert world.calls('rlft')[0][-1] == NASTY
  os.kill(int((world.folder / 'shell.pid').read_text()), signal.SIGTERM)
  process.communicate(timeout=60)
  assert process.returncode == 42
  assert not [*world.folder.glob('INJ*'), *ROOT.glob('INJ*')]


def slurm_job(world, *plan, count='0'):
  """Inside an allocation, as Slurm starts it."""
  world.plan(*plan)
  return world.start(
      'bash', f'{ROOT}/launch/slurm_job.sh', '3', str(len(plan)), 'rlft', 'run',
      SLURM_NTASKS=str(len(plan)), SLURM_JOB_ID='7',
      SLURM_JOB_NAME=str(world.folder / 'demo'), SLURM_RESTART_COUNT=count)


@pytest.mark.parametrize('plan, code, queued', [
    (('0', '0'), 0, False), (('42', '42'), 42, True), (('2',), 2, False),
    (('killed',), 137, True), (('killed', 'wait'), 137, True),
    # srun says 137 of what it killed; the cause is 41
    (('41', 'wait'), 41, False), (('wait', '44'), 44, False)])
def test_a_slurm_job_is_queued_again_where_it_helps(world, plan, code, queued):
  process = slurm_job(world, *plan)
  told = process.communicate(timeout=60)
  assert process.returncode == code, told
  assert world.calls('scontrol') == ([['requeue', '7']] if queued else [])
  assert not list(world.folder.glob('*.codes'))


def test_a_slurm_job_has_a_limit(world):
  process = slurm_job(world, '42', count='3')
  told = process.communicate(timeout=60)
  assert process.returncode == 42 and not world.calls('scontrol')
  assert 'which is the limit' in told[1]


@pytest.mark.parametrize('ranks', [1, 2])
def test_sigterm_from_slurm_reaches_python(world, ranks):
  """Slurm may signal the first process of each task, or all of them."""
  process = slurm_job(world, *['wait'] * ranks)
  for rank in range(ranks):
    appears(world.folder / f'{rank}.pid')
  for rank in range(ranks):
    pid = int((world.folder / f'{rank}.pid').read_text())
    os.kill(os.getpgid(pid), signal.SIGTERM)
  told = process.communicate(timeout=60)
  assert process.returncode == 42, told
  assert world.calls('scontrol') == [['requeue', '7']]


def test_a_slurm_job_that_is_ended_does_not_ask_for_more(world):
  process = slurm_job(world, 'wait')
  appears(world.folder / '0.pid')
  process.send_signal(signal.SIGTERM)
  time.sleep(.2)  # it is not handed on: srun would kill what hears it
  assert process.poll() is None
  os.kill(int((world.folder / '0.pid').read_text()), signal.SIGTERM)
  process.communicate(timeout=60)
  assert process.returncode == 42 and not world.calls('scontrol')


VERDICTS = {  # whole, count, codes of the processes: why
    ('134', '3', '134 41 134'): '41', ('134', '2', '134 137'): '137',
    ('41', '2', '41 137'): '137', ('255', '2', '42 42'): '42',
    ('255', '2', '42'): '255', ('255', '1', ''): '255',
    ('143', '2', '42 143'): '143', ('137', '2', '44'): '44',
    ('255', '2', '0 0'): '0', ('1', '1', 'noise 099 1e3'): '1'}


def test_why_several_processes_ended_and_what_starts_again():
  script = 'source launch/shared.sh\n' + '\n'.join(
      f'verdict {whole} {count} < <(printf "%s\\n" {codes})'
      for whole, count, codes in VERDICTS) + (
          '\nfor c in {0..255}; do if again $c; then echo $c; fi; done')
  told = subprocess.run(
      ['bash', '-euo', 'pipefail', '-c', script], cwd=ROOT, text=True,
      capture_output=True, check=True).stdout.split()
  assert told[:len(VERDICTS)] == list(VERDICTS.values())
  assert told[len(VERDICTS):] == ['42', *map(str, range(128, 256))]
