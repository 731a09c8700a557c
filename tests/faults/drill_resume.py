"""A run that is killed and resumed ends as one that was left alone."""
import os
import random
import time

import pytest

from tests.faults import drill

KILLS = int(os.environ.get('FAULTS_KILLS', '5'))
FULL = KILLS > 5
KINDS = {'sft': ('sft', 1), 'rl': ('rl', 1), 'sft-2': ('sft', 2),
         'rl-2': ('rl', 2)}


def every(cases):
  """The cases, in the full tier each of them for one process and for two."""
  return [(*case[:-1], n) for case in cases for n in (1, 2)
          if FULL or n == case[-1]]


def layout(processes):
  """The same two devices, of one process or of two."""
  return dict(processes=processes, devices=2 // processes)


@pytest.mark.parametrize('kind', KINDS)
def test_killed_again_and_again_at_random_moments(whole, tmp_path, kind):
  variant, processes = KINDS[kind]
  wanted, seconds = whole(variant)
  rng = random.Random(f'{kind} {os.environ.get("FAULTS_SEED", 0)}')
  killed, runs = 0, 1
  while killed < KILLS:
    run_dir = tmp_path / f'{kind}-{runs}'
    fresh, began = not run_dir.exists(), time.monotonic()
    process = drill.begin(variant, run_dir, **layout(processes))
    try:
      process.wait(rng.uniform(.3, 1.1) * seconds)
    except drill.subprocess.TimeoutExpired:
      drill.kill(process)
      killed += 1
      continue
    # It came to its end between two kills: the others are another run's.
    assert process.returncode == 0, process.stdout.read()
    process.communicate()
    drill.same(run_dir, wanted)
    if fresh:  # the machine is less busy than it was
      seconds = time.monotonic() - began
    runs += 1
  print(f'{kind}: {killed} kills, {runs} runs')
  done = drill.run(variant, run_dir, **layout(processes))
  assert done.code == 0, done.said
  drill.same(run_dir, wanted)


@pytest.mark.parametrize('variant, where, processes', every([
    ('sft', 'soon:update:7', 1), ('rl', 'soon:rollout:20', 1),
    ('sft', 'soon:evaluation:2', 1), ('sft', 'soon:save:4', 2),
    *([('rl', 'soon:evaluation:2', 1), ('rl', 'killed:save:3', 1)]
      if FULL else [])]))
def test_killed_in_the_middle_of(whole, tmp_path, variant, where, processes):
  wanted, _ = whole(variant)
  run_dir = tmp_path / 'run'
  done = drill.run(variant, run_dir, struck=where, **layout(processes))
  assert done.code == (137 if processes == 2 else -9), done.said
  done = drill.run(variant, run_dir, **layout(processes))
  assert done.code == 0, done.said
  drill.same(run_dir, wanted)


@pytest.mark.parametrize('variant', ['sft', 'rl'] if FULL else ['sft'])
def test_two_processes_go_on_as_one(whole, tmp_path, variant):
  wanted, _ = whole(variant)
  run_dir = tmp_path / 'run'
  done = drill.run(
      variant, run_dir, struck='SIGTERM:update:3:1', **layout(2))
  assert done.code == 42, done.said
  done = drill.run(variant, run_dir, **layout(1))
  assert done.code == 0, done.said
  drill.same(run_dir, wanted)


@pytest.mark.parametrize('variant, where, processes', every([
    ('sft', 'SIGTERM:update:5', 2), ('rl', 'SIGTERM:rollout:30', 1),
    ('sft', 'SIGTERM:evaluation:2', 1), ('sft', 'SIGINT:update:5', 1),
    *([('rl', 'SIGTERM:evaluation:2', 1), ('rl', 'SIGINT:rollout:30', 1)]
      if FULL else [])]))
def test_a_signal_to_any_saves_on_all(
    whole, tmp_path, variant, where, processes):
  wanted, _ = whole(variant)
  run_dir = tmp_path / 'run'
  strike = f'{where}:{processes - 1}'
  done = drill.run(variant, run_dir, struck=strike, **layout(processes))
  assert done.code == 42, done.said
  assert done.after < drill.SOON
  done = drill.run(variant, run_dir, **layout(processes))
  assert done.code == 0, done.said
  drill.same(run_dir, wanted)
