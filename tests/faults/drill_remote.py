"""Two processes and a bucket: killed in a save, they go on to the same bits."""
import threading

import pytest

from tests import bucket
from tests.faults import drill


@pytest.fixture
def world():
  with bucket.served() as made:
    yield made


def test_two_processes_share_a_bucket(whole, world, tmp_path):
  """The save that is cut off is in parts of both; neither is believed."""
  settings = world.environment()
  options = dict(processes=2, devices=1, logs=str(tmp_path / 'remote'))
  process = drill.begin('sft', 'gs://bucket/run', settings=settings, **options)

  struck = threading.Event()

  def strike(asked):
    if asked == ('put', 'run/checkpoints/000009/commit_success.txt'):
      struck.set()
    return 503 if struck.is_set() else None

  world.fails = strike
  assert struck.wait(240)
  drill.kill(process)
  world.fails = lambda asked: None
  assert world.names('run/checkpoints/000009/rest/')
  process = drill.begin('sft', 'gs://bucket/run', settings=settings, **options)
  said, _ = process.communicate(timeout=240)
  assert process.returncode == 0, said
  for name in world.names('run/'):
    path = tmp_path / 'copy' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(world.read(name))
  drill.same(tmp_path / 'copy' / 'run', whole('sft')[0])
  assert not [asked for asked in world.asked if asked.what == 'refused']
