"""What an SFT step costs as work grows: rows, layers, devices twice as many.

  python -m tests.bench.scaling [--topologies=v5e:4x4,v5e:4x8] [--preset=...]

Compiled, not run: for slices of TPUs with `pip install "jax[tpu]"`, or without
`--topologies` for four and eight of the CPU's virtual devices, where a step is
timed as well. Stated, and printed beside what was found: operations of a
device double with rows and, but for the head, with layers, and halve with
devices; what it sends stays with rows, doubles with layers, and hardly grows
with devices (a ring of n sends (n - 1) / n of what is gathered).
"""
import os
import statistics
import sys
import time

SMALL = dict(width=128, layers=4, heads=4, kv_heads=2, hidden=448)


def row(config, topology: str) -> dict:
  """The plan of the update, and a step's seconds where it can be run."""
  from rlft import planning
  found, = planning.plan(config, topology, ('sft',))
  return found


def config(*, rows: int, layers: int, preset: str):
  """An SFT run on a mesh that is all `fsdp`."""
  from rlft import config as door
  from rlft import presets
  made = door.load('configs/scale.py', {})
  shape = dict(presets.shape(preset) if preset else SMALL, layers=layers)
  if 'vocabulary' not in shape:
    shape['vocabulary'] = 2048
  with made.unlocked():
    made.model.preset, made.model.shape = '', shape
  made.mesh.update(data=1, fsdp=-1)
  made.experience.rows, made.experience.length = rows, 512
  return made


def seconds(made, topology: str) -> float | None:
  """A step on the CPU's virtual devices; None on what is not here."""
  if not topology.startswith('cpu'):
    return None
  import jax

  from rlft.ops import sharding
  with sharding.choosing(jax.devices()[:int(topology[4:])]):
    mesh = sharding.make(data=1, fsdp=-1)
  return step_seconds(made, mesh, count=3)


def step_seconds(made, mesh, *, count: int, warm: int = 1) -> float:
  """Median of so many steps of an SFT run on this machine's devices."""
  import jax
  import jax.numpy as jnp

  from rlft import binding, tokenizer
  from rlft.ops import sharding
  from rlft.planning import programs
  update, *_ = programs.of(made, mesh)
  words = tokenizer.load(made.tokenizer)
  with sharding.over(mesh):
    model, params = binding.build_params(made, words)
    run, tx, _ = binding.build_update(made, model)
    state = update.arguments[0]._replace(
        params=params, step=jnp.zeros((), jnp.int32), key=jax.random.key(0),
        opt_state=jax.jit(
            lambda p: sharding.parameters(tx.init(p)))(params))
    batch = jax.tree.map(
        lambda x: jnp.ones(x.shape, x.dtype), update.arguments[1])
    took = []
    for _ in range(warm + count):
      began = time.monotonic()
      state, _ = jax.block_until_ready(run(state, batch))
      took.append(time.monotonic() - began)
  return statistics.median(took[warm:])


def main(words: list[str]) -> None:
  """Prints a line for each case."""
  options = dict(word[2:].split('=') for word in words)
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  import jax
  jax.config.update('jax_num_cpu_devices', 8)
  few, many = options.get('topologies', 'cpu:4,cpu:8').split(',')
  preset = options.get('preset', '')
  layers = 4
  first = None
  for name, rows, depth, topology in (
      ('base', 32, layers, few), ('rows x 2', 64, layers, few),
      ('layers x 2', 32, 2 * layers, few), ('devices x 2', 32, layers, many)):
    made = config(rows=rows, layers=depth, preset=preset)
    found = row(made, topology)
    found['measured'] = seconds(made, topology)
    first = first or found
    print(told(name, topology, found, first), flush=True)


def told(name: str, topology: str, found: dict, first: dict) -> str:
  """One line, with what became of each number since the first."""
  units = {'flops': (1e9, 'GFLOP'), 'sent_bytes': (1e6, 'MB sent'),
           'hbm_bytes': (2**20, 'MiB'), 'measured': (1, 's')}
  numbers = (
      f'{found[key] / unit:9.2f} {word} ({found[key] / first[key]:.2f} x)'
      for key, (unit, word) in units.items() if found[key] is not None)
  return f'{name:12s} {topology:9s} {", ".join(numbers)}'


if __name__ == '__main__':
  main(sys.argv[1:])
