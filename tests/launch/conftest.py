"""The launchers' own modules, which are no package, and fake tools."""
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKES = ROOT / 'tests/launch/fakes.py'
sys.path.append(str(ROOT / 'launch'))


class World:
  """A machine with fake tools; what they were told is in `calls`."""

  def __init__(self, folder: Path):
    self.folder = folder
    self.started: list[subprocess.Popen] = []
    tools = folder / 'bin'
    tools.mkdir()
    for name in ('gcloud', 'sudo', 'docker', 'kubectl', 'xpk', 'sbatch', 'srun',
                 'scontrol', 'rlft'):
      file = tools / name
      file.write_text(
          f'#!/bin/sh\nexec {sys.executable} -IS {FAKES} {name} "$@"\n')
      file.chmod(0o755)
    venv = Path(sys.executable).parent
    self.environment = {
        'PATH': f'{tools}:{venv}:/usr/bin:/bin', 'PYTHONPATH': str(ROOT),
        'HOME': str(folder), 'FAKES': str(folder), 'RLFT_POLL_SECONDS': '0.05',
        'HF_TOKEN': 'a-secret'}

  def plan(self, *steps: str) -> None:
    """What each run in turn does: see fakes.py."""
    (self.folder / 'plan').write_text('\n'.join(steps))

  def start(self, *words: str, **variables: str) -> subprocess.Popen:
    """A launcher, from the repository's root."""
    self.started.append(subprocess.Popen(
        words, cwd=ROOT, env={**self.environment, **variables}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True))
    return self.started[-1]

  def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess:
    """The same, to its end."""
    process = self.start(*words, **variables)
    told = process.communicate(timeout=90)
    return subprocess.CompletedProcess(words, process.returncode, *told)

  def calls(self, name: str) -> list[list[str]]:
    """The words of each call of a tool."""
    file = self.folder / 'calls'
    found = map(json.loads, file.read_text().splitlines() if (
        file.exists()) else ())
    return [words for tool, *words in found if tool == name]


@pytest.fixture
def world(tmp_path):
  made = World(tmp_path)
  yield made
  for process in made.started:
    if process.poll() is None:  # a test that failed has left it
      os.killpg(process.pid, signal.SIGKILL)
      process.communicate()
