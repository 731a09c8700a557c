"""launch/sweep.py: one command per point, each a run that can be typed."""
import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rlft import arguments, config

ROOT = Path(__file__).parents[1]
STARTS = ROOT / 'configs/general_points/rl_from_checkpoints.py'


def sweep():
  spec = importlib.util.spec_from_file_location(
      'sweep', ROOT / 'launch/sweep.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_one_command_per_start_and_each_can_be_parsed():
  lines = sweep().commands(f'{STARTS}:smoke', 'runs/x')
  points = list(config.module(str(STARTS)).sweep())
  assert len(lines) == len(points) == len(set(lines))
  for line, point in zip(lines, points, strict=True):
    rlft, run, *rest = shlex.split(line)
    _, flags, overrides = arguments.parse(rest)
    assert (rlft, run, overrides) == ('rlft', 'run', point)
    found = config.load(flags['config'], overrides)
    assert found.init == point['init']
  folders = {shlex.split(line)[3] for line in lines}
  assert len(folders) == len(lines)


def test_a_config_without_a_sweep_is_refused():
  with pytest.raises(ValueError, match='has no sweep'):
    sweep().commands(str(ROOT / 'configs/general_points/rl.py'), 'runs/x')


def test_the_script_prints_what_it_is_asked_for_or_says_what_is_wrong():
  typed = lambda *words: subprocess.run(
      [sys.executable, 'launch/sweep.py', *words], cwd=ROOT,
      capture_output=True, text=True, check=False)
  done = typed(f'--config={STARTS}:smoke', '--run_dir=runs/x')
  assert done.returncode == 0
  assert done.stdout.splitlines() == sweep().commands(
      f'{STARTS}:smoke', 'runs/x')
  more = typed(f'--config={STARTS}:smoke', '--run_dir=runs/x',
               '--config.num_steps=3')
  assert [line + ' --config.num_steps=3' for line in done.stdout.splitlines()
          ] == more.stdout.splitlines()
  for words, said in (
      (['--config=missing.py'], '--run_dir=... is missing'),
      ([f'--config={STARTS}', '--run_dir=x', '--config.init=y'], 'sweep sets'),
      (['so', '--run_dir=x'], "flags only, not 'so'")):
    done = typed(*words)
    assert done.returncode == 2 and done.stderr.startswith('sweep: ')
    assert said in done.stderr
