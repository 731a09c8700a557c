"""Runs in processes of their own, and what they left."""
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
TIMES = ('seconds', 'per_second', 'compilations')
SOON = 30  # seconds: ten are asked of a machine that has nothing else to do
# A runner in the background ignores Ctrl-C, and what it starts would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
CACHE = pathlib.Path(tempfile.gettempdir()) / 'rlft-drill-programs'


class Ended(NamedTuple):
  """How a run ended."""
  code: int
  said: str  # of all of its processes
  seconds: float
  after: float  # seconds from what befell it to its end


def command(
    variant: str, run_dir: pathlib.Path, *, processes: int = 1,
    struck: str = '', devices: int = 1, more: tuple[str, ...] = (),
    logs: str = '', launched: bool = False,
) -> list[str]:
  """The words that start a run, perhaps struck by something."""
  start = [sys.executable, '-m', *(
      ('tests.faults.victim', struck) if struck else ('rlft.main',))]
  words = [*start, 'run', f'--config=tests/faults/runs.py:{variant}',
           f'--run_dir={run_dir}', *more]
  if processes == 1 and not launched:
    return words
  return [sys.executable, 'launch/local.py', '-n', str(processes),
          f'--devices={devices}', '--grace=2',
          f'--logs={logs or run_dir}.logs', '--', *words]


def environment(devices: int, **extra: str) -> dict[str, str]:
  """Programs are compiled once for all drills."""
  return {
      **os.environ, 'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': str(devices),
      'PYTHONPATH': os.pathsep.join(
          filter(None, (str(ROOT), os.environ.get('PYTHONPATH')))),
      'JAX_COMPILATION_CACHE_DIR': str(CACHE),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
      'OMP_NUM_THREADS': '1', **extra}


def begin(
    variant: str, run_dir: pathlib.Path, *, devices: int = 1,
    settings: dict[str, str] | None = None, **options: Any,
) -> subprocess.Popen:
  """Starts it, in a process group of its own."""
  return subprocess.Popen(
      command(variant, run_dir, devices=devices, **options), cwd=ROOT,
      env=environment(devices, **(settings or {})), start_new_session=True,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(variant: str, run_dir: pathlib.Path, **options: Any) -> Ended:
  """Runs it to whatever end it has."""
  began = time.monotonic()
  process = begin(variant, run_dir, **options)
  said, _ = process.communicate(timeout=240)
  seconds, now = time.monotonic() - began, time.time()
  logs = run_dir.with_name(f'{run_dir.name}.logs')
  for log in sorted(logs.glob('*.log')) if logs.is_dir() else ():
    said += f'\n--- {log.name}\n{log.read_text()}'
  struck = re.findall(r'^struck at ([0-9.]+)', said, re.M)
  after = now - float(struck[0]) if struck else math.nan
  return Ended(process.returncode, said, seconds, after)


def kill(process: subprocess.Popen) -> None:
  """At once, with all that it started, wherever they are in their work."""
  children = subprocess.run(
      ['pgrep', '-P', str(process.pid)], capture_output=True, text=True,
      check=False).stdout.split()
  for pid in (*map(int, children), process.pid):
    try:
      os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
      continue
  process.communicate()


def end(run_dir: pathlib.Path) -> dict[str, str]:
  """Fingerprints of the newest checkpoint: every bit of the state."""
  steps = sorted(p.parent for p in (run_dir / 'checkpoints').glob(
      '*/commit_success.txt'))
  found = json.loads((steps[-1] / 'seal' / 'metadata').read_text())
  return {'step': steps[-1].name, **found['fingerprints']}


def told(run_dir: pathlib.Path) -> dict[str, list]:
  """Every row and sample that was logged, but for the times."""
  plain = lambda row: {k: v for k, v in row.items()
                       if not k.endswith(TIMES)}
  return {
      str(path.relative_to(run_dir)): [
          plain(json.loads(line)) for line in path.read_text().splitlines()]
      for path in sorted(run_dir.rglob('*.jsonl'))}


def same(run_dir: pathlib.Path, other: pathlib.Path) -> None:
  """AssertionError unless both runs ended with the same bits and logs."""
  assert end(run_dir) == end(other)
  assert told(run_dir) == told(other)
