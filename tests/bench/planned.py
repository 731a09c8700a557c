"""A plan beside what was planned: memory and seconds of SFT steps.

  python -m tests.bench.planned [--size=1.2B]

On the devices of this machine. What share of its numbers a device reaches is
measured on one shape and used to predict another; both are printed, with the
largest memory in use where the device counts it. A GPU's numbers are those of
`rlft plan`; a CPU's are measured here first.
"""
import functools
import sys
import time

from tests.bench import scaling

SHAPES = {  # of the model, then rows and tokens: measured, then predicted
    'small': ((dict(width=256, layers=4, heads=4, kv_heads=2, hidden=896,
                    vocabulary=8192), 8, 256),
              (dict(width=512, layers=6, heads=8, kv_heads=4, hidden=1536,
                    vocabulary=16384), 8, 384)),
    '1.2B': ((dict(width=1024, layers=12, heads=16, kv_heads=8, hidden=4096,
                   vocabulary=32768), 16, 1024),
             (dict(width=2048, layers=16, heads=32, kv_heads=8, hidden=8192,
                   vocabulary=128256), 8, 1024)),
}


def config(shape: dict, rows: int, length: int, dtype: str):
  """An SFT run of random weights on one device."""
  from rlft import config as door
  made = door.load('configs/scale.py', {})
  with made.unlocked():
    made.model.preset, made.model.shape = '', shape
    made.model.dtype, made.tokenizer = dtype, 'asset:points24'
  made.mesh.update(data=1, fsdp=1)
  made.experience.rows, made.experience.length = rows, length
  return made


def numbers() -> tuple[float, float]:
  """Multiply-adds and bytes a second of this machine, by plain programs."""
  import jax
  import jax.numpy as jnp
  n = 2048
  a = jnp.ones((n, n))
  long = jnp.ones(2**26)
  product = best(jax.jit(lambda a: a @ a), a)
  moved = best(jax.jit(lambda x: x + 1), long)
  return 2 * n**3 / product, 2 * long.nbytes / moved


def best(run, *given, count: int = 5) -> float:
  """Seconds of the fastest of some calls."""
  import jax
  took = []
  for _ in range(count + 1):
    began = time.monotonic()
    jax.block_until_ready(run(*given))
    took.append(time.monotonic() - began)
  return min(took[1:])


def measured(made) -> tuple[float, float | None]:
  """Median seconds of a step, and the peak of the device's memory."""
  import jax
  took = scaling.step_seconds(made, None, count=4, warm=2)
  stats = jax.devices()[0].memory_stats() or {}
  return took, stats.get('peak_bytes_in_use')


def main(words: list[str]) -> None:
  """Prints a line for each shape."""
  import jax

  from rlft import planning
  from rlft.planning import topologies
  options = dict(word[2:].split('=') for word in words)
  cpu = jax.default_backend() == 'cpu'
  dtype = 'float32' if cpu else 'bfloat16'
  size = options.get('size', 'small' if cpu else '1.2B')
  if cpu:
    products, bandwidth = numbers()
    found = topologies.find('cpu:1')._replace(chip=topologies.Chip(
        2**40, products, bandwidth, 1e12))
    topologies.find = functools.partial(lambda at, name: at, found)
    print(f'this machine: {products / 1e9:.0f} GFLOP/s, '
          f'{bandwidth / 1e9:.1f} GB/s')
  share = None
  for shape, rows, length in SHAPES[size]:
    made = config(shape, rows, length, dtype)
    row, = planning.plan(made, f'{jax.default_backend()}:1', ('sft',))
    floor = row['seconds'] * planning.EFFICIENCY[row['bound_by']]
    seconds, peak = measured(made)
    share = share or floor / seconds
    told = f'{peak / row["hbm_bytes"]:.2f} of it' if peak else 'not counted'
    print(f'{shape["width"]} x {shape["layers"]}, {rows} x {length}: planned '
          f'{row["hbm_bytes"] / 2**30:.2f} GiB, measured {told}; at a share of '
          f'{share:.2f} {floor / share:.3f} s ({row["bound_by"]}), measured '
          f'{seconds:.3f} s ({seconds * share / floor:.2f} times)', flush=True)


if __name__ == '__main__':
  main(sys.argv[1:])
