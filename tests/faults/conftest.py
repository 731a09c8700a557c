"""What the drills compare with."""
import fcntl
import json
import os

import pytest

from tests.faults import drill


@pytest.fixture(scope='session')
def whole(tmp_path_factory):
  """Kind -> a run of two devices that nothing befell, and its seconds.

  Made once for all workers, by the first that asks.
  """
  folder = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    folder = folder.parent

  def run(variant):
    run_dir, told = folder / f'whole_{variant}', folder / f'{variant}.json'
    with open(folder / f'{variant}.lock', 'w') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not told.exists():
        drill.run(variant, folder / f'first_{variant}', devices=2)  # compiles
        done = drill.run(variant, run_dir, devices=2)
        assert done.code == 0, done.said
        told.write_text(json.dumps(done.seconds))
    return run_dir, json.loads(told.read_text())

  return run
