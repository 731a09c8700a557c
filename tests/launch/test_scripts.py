"""The launchers as text: shellcheck, and what a dry run prints.

With RLFT_GOLDENS=write a changed dry run is taken for right: read the diff.
"""
import os
import re
import shutil
import subprocess
import sysconfig

import pytest

from tests.launch.conftest import ROOT

SCRIPTS = sorted((ROOT / 'launch').glob('*.sh'))
GOLDENS = ROOT / 'tests/fixtures/launch'
STUDY = 'tests/fixtures/launch/study.py'
PLACE = ('--zone=us-west4-a', '--project=my-project')
SLICE = ('--accelerator=v5e:4x4', '--image=us-docker.pkg.dev/p/r/rlft:1',
         '--run_dir=gs://my-bucket/runs/demo')
CALLS = {
    'tpu_vm': (*SLICE, *PLACE, '--spot=true', '--delete=true', '--patience=6h',
               '--service_account=trainer@my-project.iam.gserviceaccount.com',
               "--config.name=it's a b; rm -rf ~"),
    'gke': (*SLICE, '--spot=true', '--queue=ours', '--service_account=trainer'),
    'xpk': (*SLICE, *PLACE, '--cluster=ours', '--restarts=3'),
    'slurm': ('--accelerator=h100:2x8', '--run_dir=runs/demo', '--name=first',
              '--partition=gpu', '--account=ours', '--time=24:00:00'),
}


def test_shellcheck_finds_nothing():
  found = shutil.which('shellcheck', path=os.pathsep.join(
      (sysconfig.get_path('scripts'), os.environ['PATH'])))
  assert found, 'no shellcheck: pip install -e .[test]'
  told = subprocess.run(
      [found, '-x', '-o', 'all', '-S', 'style', *SCRIPTS], cwd=ROOT, text=True,
      capture_output=True, check=False)
  assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_a_script_keeps_the_rules(script):
  text = script.read_text()
  subprocess.run(['bash', '-n', script], check=True)
  assert not re.search(r'\beval\b|\|\| *(true|:)\b|pip install|https?://', text)
  if os.access(script, os.X_OK):
    assert text.startswith('#!/usr/bin/env bash\n')
    assert '\nset -euo pipefail\n' in text
  assert len(text.splitlines()) <= 300
  assert all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.parametrize('tool', CALLS)
def test_a_dry_run_prints_what_would_run(world, tool):
  told = world.run(f'launch/{tool}.sh', 'study', STUDY, *CALLS[tool],
                   DRY_RUN='1')
  assert told.returncode == 0 and told.stderr == ''
  assert not (world.folder / 'calls').exists()
  golden = GOLDENS / f'{tool}.txt'
  if os.environ.get('RLFT_GOLDENS') == 'write':
    golden.write_text(told.stdout)
  assert told.stdout == golden.read_text()


@pytest.mark.parametrize('tool, called', [
    ('gke', 'kubectl'), ('slurm', 'sbatch')])
def test_what_a_dry_run_prints_is_what_runs(world, tool, called):
  done = world.run(f'launch/{tool}.sh', 'study', STUDY, *CALLS[tool])
  assert done.returncode == 0, done.stderr
  ran, = world.calls(called)
  # what was printed, given to a shell, calls the same tool in the same way
  again = world.run('bash', str(GOLDENS / f'{tool}.txt'))
  assert again.returncode == 0, again.stderr
  assert world.calls(called) == [ran, ran]
  if tool == 'gke':
    golden = (GOLDENS / 'gke.txt').read_text().splitlines(keepends=True)
    assert (world.folder / 'stdin').read_text() == ''.join(golden[1:-1])


@pytest.mark.parametrize('tool', CALLS)
def test_a_refusal_is_one_line_and_exit_code_2(world, tool):
  told = world.run(f'launch/{tool}.sh', 'study', 'missing.py', *CALLS[tool])
  assert told.returncode == 2 and told.stdout == ''
  assert told.stderr == 'launch: no config file missing.py\n'
  assert not (world.folder / 'calls').exists()
