"""A Llama of 1.2 B parameters on a GPU: what is reached of what it can do.

  python -m tests.bench.gpu_models

In bfloat16 (float32 masters): one SFT step of 4 x 2048 tokens as a share of the
rate of a large matrix product measured here; one decoded token of 64 rows, the
bytes of the weights and of the cache that it reads as a share of the bandwidth
of a copy measured here. transformers + torch beside it, eager and compiled,
where torch sees the GPU; each in a process of its own. Without a GPU it prints
this plan and does nothing.
"""
import functools
import json
import os
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp

from rlft.ops import attention
from tests.bench import models

SHAPE = '1.2B'
ENGINES = ('ours', 'eager', 'compiled')
TARGETS = dict(train=.5, decode=.6)


def seconds(run, repeats: int) -> float:
  """Median wall seconds, after one call that compiles."""
  run()
  found = []
  for _ in range(repeats):
    began = time.perf_counter()
    run()
    found.append(time.perf_counter() - began)
  return statistics.median(found)


def limits() -> tuple[float, float]:
  """Products per second of 8192^3 in bfloat16; bytes per second of a copy."""
  x = jnp.ones((8192, 8192), jnp.bfloat16)
  dot = jax.jit(lambda x: x @ x)
  moved = jnp.ones((2**29,), jnp.float32)
  copy = jax.jit(lambda x: x + 1)
  rate = 8192**3 / seconds(lambda: jax.block_until_ready(dot(x)), 20)
  return rate, 2 * moved.nbytes / seconds(
      lambda: jax.block_until_ready(copy(moved)), 20)


def work() -> tuple[float, float]:
  """Products of a training step; bytes that one decoded token reads.

  Attention's own products are counted as if causal ones were all it did.
  """
  width, layers, heads, kv_heads, _, _ = models.SHAPES[SHAPE]
  rows, length = models.ROWS[SHAPE]
  scores = layers * width * length  # two products over half of the row
  step = 3 * rows * length * (models.products(SHAPE) + scores)
  columns = models.PROMPT + models.NEW
  cache = models.BATCH * layers * 2 * width * kv_heads // heads * columns
  return step, 2 * (models.products(SHAPE) + cache)


def child(engine: str) -> None:
  """Prints seconds of a step and of a decoded token."""
  if engine == 'ours':
    train, generate, _ = models.ours(SHAPE, 'bfloat16')
  else:
    import torch
    train, generate, _ = (
        functools.partial(_synchronised, run) for run in models.torch_way(
            SHAPE, engine == 'compiled', 'bfloat16', 'cuda'))
    torch.cuda.synchronize()
  print(json.dumps(dict(
      train=seconds(train, 5), decode=seconds(generate, 3) / models.NEW)))


def _synchronised(run) -> None:
  import torch
  run()
  torch.cuda.synchronize()


def main(words: list[str]) -> None:
  if words:
    child(*words)
    return
  # this process leaves the memory to those that it starts
  os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'
  if jax.default_backend() != 'gpu':
    rows, length = models.ROWS[SHAPE]
    print(f'needs a GPU; on one it would time, at {SHAPE} in bfloat16, a step '
          f'of {rows} x {length} tokens and a decoded token of {models.BATCH} '
          f'rows: {", ".join(ENGINES)}')
    return
  rate, bandwidth = limits()
  products, moved = work()
  print(f'{jax.devices()[0].device_kind}: {2 * rate / 1e12:.0f} TFLOP/s, '
        f'{bandwidth / 1e9:.0f} GB/s; attention: {attention.kernel()}')
  for engine in ENGINES:
    done = subprocess.run(
        [sys.executable, '-m', 'tests.bench.gpu_models', engine],
        capture_output=True, text=True, check=False)
    if done.returncode:
      last = (done.stderr.strip().splitlines() or ['?'])[-1]
      print(f'{engine}: failed, {last[:200]}')
      continue
    spent = json.loads(done.stdout.strip().splitlines()[-1])
    print(f'{engine:8s} step {spent["train"]:.3f} s, '
          f'{products / spent["train"] / rate:.0%} of the products (asked '
          f'{TARGETS["train"]:.0%}); token {1e3 * spent["decode"]:.2f} ms, '
          f'{moved / spent["decode"] / bandwidth:.0%} of the bandwidth (asked '
          f'{TARGETS["decode"]:.0%})', flush=True)


if __name__ == '__main__':
  main(sys.argv[1:])
