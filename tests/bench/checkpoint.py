"""What checkpoints cost: their fingerprints, and a PPO run with and without.

  python -m tests.bench.checkpoint [--rounds=3] [--updates=60]

First the fingerprint at 25 M parameters, of them alone and with the optimizer's
state, beside one SFT step of that size, by turns. Then PPO from the shipped
base with the demo's settings, a process each, by turns: no save at all, and one
at every 50th update besides the first and the last; no evaluations. Seconds
that the loop waited for saves are counted, too: they do not drown in what else
the machine does. Medians; CPU seconds beside wall. On two threads.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from tests.bench import models

EVERY = 50
SCRIPT = """
import json, resource, sys, time
import ml_collections
import rlft
from rlft import config as door
from rlft.training import saving

run_dir, every, updates = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
config = door.load('configs/general_points/rl.py', {})
config.init, config.num_steps = 'asset:points24_nano', updates
config.evals = ml_collections.ConfigDict()
config.evaluate.steps = config.checkpoint.steps = ()
config.checkpoint.every = every
waited = []

def timed(name):
  plain = getattr(saving.Saver, name)
  def call(*given):
    began = time.monotonic()
    if every:
      plain(*given)
    waited.append(time.monotonic() - began)
  setattr(saving.Saver, name, call)

timed('save'), timed('finish')
began = time.monotonic()
rlft.run(config, run_dir)
wall = time.monotonic() - began
spent = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps(dict(wall=wall, cpu=spent.ru_utime + spent.ru_stime,
                      waited=sum(waited))))
"""


def fingerprint(rounds: int) -> None:
  """Prints what it costs beside a step."""
  import jax

  from rlft.ops import trees

  state, train = step_of('25M')
  marked = {
      'parameters': lambda state: {'params': state.params},
      'parameters and optimizer state': lambda state: {
          'params': state.params, 'rest': state.opt_state}}
  found = {name: [] for name in ('step', *marked)}
  for turn in range(3 * rounds + 1):
    for name in found:
      cpu, wall = time.process_time(), time.monotonic()
      if name == 'step':
        state = jax.block_until_ready(train(state))
      else:
        trees.fingerprints(marked[name](state))
      if turn:  # the first one compiles
        found[name].append(
            (time.process_time() - cpu, time.monotonic() - wall))
  cpu, wall = middle(found.pop('step'))
  print(f'an SFT step: {cpu:.2f} CPU s ({wall:.2f} s)')
  for name, rows in found.items():
    mark, mark_wall = middle(rows)
    count = trees.count(marked[name](state))
    print(f'  fingerprint of {name}, {count / 1e6:.1f} M numbers: {mark:.3f} '
          f'CPU s ({mark_wall:.3f} s), {mark / cpu:.2%} of one step '
          f'({mark_wall / wall:.2%} of its wall time), at a save every '
          f'{EVERY} steps {mark / cpu / EVERY:.3%}')


def middle(rows: list[tuple[float, float]]) -> tuple[float, ...]:
  """Medians of CPU and of wall seconds."""
  return tuple(map(statistics.median, zip(*rows, strict=True)))


def step_of(shape: str):
  """A train state and one SFT step of it, as tests.bench.models takes it."""
  import functools

  import jax
  import jax.numpy as jnp

  from rlft import binding, policy
  from rlft.models import transformer
  from rlft.objectives import sft
  from rlft.training import steps
  from rlft.types import Batch, TrainState

  width, layers, heads, kv_heads, hidden, vocabulary = models.SHAPES[shape]
  model = transformer.make(vocabulary=vocabulary, bos=None, shape=dict(
      width=width, layers=layers, heads=heads, kv_heads=kv_heads,
      hidden=hidden))
  params = {'policy': transformer.initialise(model, jax.random.key(0))}
  tokens = jax.random.randint(
      jax.random.key(1), models.ROWS[shape], 1, vocabulary)
  batch = Batch(tokens, jnp.ones(tokens.shape, bool).at[
      :, :tokens.shape[1] // 4].set(False))
  tx = binding.build_optimizer(num_steps=100, learning_rate=3e-4)
  step = jax.jit(functools.partial(
      steps.gradient_step, forward=functools.partial(policy.forward, model),
      loss=sft.loss, tx=tx), donate_argnums=0)
  state = TrainState(
      jnp.zeros((), jnp.int32), params, tx.init(params), jax.random.key(0))
  return state, lambda state: step(state, batch)[0]


def runs(rounds: int, updates: int) -> None:
  """Prints what saves cost a PPO run."""
  found = {0: [], EVERY: []}
  for _ in range(rounds):
    for every, rows in found.items():
      with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, '-c', SCRIPT, f'{folder}/run', str(every),
             str(updates)], check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
  without, saved = (
      {k: statistics.median(row[k] for row in rows) for k in rows[0]}
      for rows in found.values())
  print(f'PPO, {updates} updates: {without["wall"]:.1f} s and '
        f'{without["cpu"]:.1f} CPU s without saves, {saved["wall"]:.1f} s and '
        f'{saved["cpu"]:.1f} CPU s with one at every {EVERY}th')
  print(f'  {saved["wall"] / without["wall"] - 1:+.1%} wall, '
        f'{saved["cpu"] / without["cpu"] - 1:+.1%} CPU; the loop waited '
        f'{saved["waited"]:.2f} s for saves, '
        f'{saved["waited"] / saved["wall"]:.1%} of its wall time')


def main(words: list[str]) -> None:
  """Prints two lines for each measurement."""
  options = dict(word[2:].split('=') for word in words)
  rounds = int(options.get('rounds', 3))
  os.environ.setdefault('OMP_NUM_THREADS', str(models.THREADS))
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  fingerprint(rounds)
  runs(rounds, int(options.get('updates', 60)))


if __name__ == '__main__':
  main(sys.argv[1:])
