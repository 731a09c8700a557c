"""Two processes of four devices beside one of eight, and beside one device."""
import json

import pytest

from tests.experience import test_conversations as data
from tests.faults import drill

CUT = ('--config.mesh.data=2', '--config.mesh.fsdp=2',
       '--config.mesh.tensor=2')
EIGHT = {  # rows that split over eight devices
    'sft,bare': ('--config.experience.rows=8', '--config.num_steps=4'),
    'sft,analysed': ('--config.experience.rows=8', '--config.num_steps=2'),
    'rl,bare,replay': ('--config.experience.prompts=8', '--config.num_steps=2')}
CASES = [('sft,bare', ()), ('sft,analysed', CUT), ('rl,bare,replay', CUT)]


def run(variant, run_dir, **options):
  done = drill.run(variant, run_dir, **options)
  assert done.code == 0, done.said
  return run_dir


@pytest.mark.parametrize('variant, cut', CASES)
def test_the_same_mesh_of_two_processes_gives_the_same_bits(
    variant, cut, tmp_path):
  more = (*EIGHT[variant], *cut)
  two = run(variant, tmp_path / 'two', processes=2, devices=4, more=more)
  # launched, too: in one process JAX adds up in another order by default
  one = run(variant, tmp_path / 'one', devices=8, more=more, launched=True)
  drill.same(two, one)
  alone = run(variant, tmp_path / 'alone', devices=1, more=EIGHT[variant])
  near(two / 'metrics.jsonl', alone / 'metrics.jsonl',
       ('loss', 'grad_norm', 'update_norm'))
  if 'analysed' in variant:
    table = 'analyses/rotation.jsonl'
    near(two / table, alone / table, ('energy', 'rotation'), 1e-3)


def near(path, other, columns, tolerance=1e-5):
  """The numbers of both files, to the rounding of another order of sums."""
  rows, wanted = (
      [json.loads(line) for line in p.read_text().splitlines()]
      for p in (path, other))
  assert len(rows) == len(wanted) > 0
  for row, want in zip(rows, wanted, strict=True):
    for key in columns:
      if key in want:
        assert row[key] == pytest.approx(
            want[key], rel=tolerance, abs=tolerance), key


def test_each_process_draws_the_conversations_of_its_rows(tmp_path):
  path = data.write(tmp_path / 'a.jsonl', data.talks('qwen2', 24))
  done = drill.subprocess.run(
      [drill.sys.executable, 'launch/local.py', '-n', '2', '--devices=4',
       '--grace=2', f'--logs={tmp_path / "logs"}', '--', drill.sys.executable,
       '-m', 'tests.multi.slices', path], cwd=drill.ROOT, text=True,
      env=drill.environment(4), capture_output=True, check=False, timeout=120)
  said = [log.read_text() for log in sorted((tmp_path / 'logs').glob('*.log'))]
  assert done.returncode == 0, said
  assert ['the rows are those of one process' in text
          for text in said] == [True] * 2


def test_a_study_under_the_launcher(tmp_path):
  """The demo's smoke study, whole, by two processes."""
  words = [
      drill.sys.executable, 'launch/local.py', '-n', '2',
      f'--logs={tmp_path / "logs"}', '--', drill.sys.executable, '-m',
      'rlft.main', 'run', '--config=configs/general_points/demo.py:smoke',
      f'--run_dir={tmp_path / "study"}']
  done = drill.subprocess.run(
      words, cwd=drill.ROOT, env=drill.environment(1), text=True,
      stdout=drill.subprocess.PIPE, stderr=drill.subprocess.STDOUT,
      check=False, timeout=500)
  assert done.returncode == 0, done.stdout
  assert (tmp_path / 'study' / 'report.html').stat().st_size > 10_000
  stages = json.loads((tmp_path / 'study' / 'stages.json').read_text())
  assert all(stage['finished'] for stage in stages)
