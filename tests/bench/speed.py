"""Speed of the nano model: cached against uncached sampling, and SFT.

  python -m tests.bench.speed

Batch 256, prompts of 16 tokens, 64 new ones; medians of timed calls after one
that compiles (one call without the cache), both ways in one process. CPU
seconds stand beside wall, since machines are shared.
"""
import functools
import statistics
import time

import jax
import jax.numpy as jnp

from rlft import binding, policy
from rlft.models import transformer
from rlft.objectives import sft
from rlft.training import steps
from rlft.types import Batch, TrainState

ROWS, PROMPT, NEW, VOCABULARY = 256, 16, 64, 134


def timed(function, repeats: int, warm: bool = True) -> tuple[float, float]:
  """Median wall and CPU seconds of a call, after one that is not counted."""
  if warm:
    jax.block_until_ready(function())
  walls, cpus = [], []
  for _ in range(repeats):
    wall, cpu = time.monotonic(), time.process_time()
    jax.block_until_ready(function())
    walls.append(time.monotonic() - wall)
    cpus.append(time.process_time() - cpu)
  return statistics.median(walls), statistics.median(cpus)


def uncached(model, params, prompts):
  """Greedy decoding that runs the whole row again for every token."""
  variables = {'params': params['policy']}
  tokens = jnp.pad(prompts, ((0, 0), (0, NEW)))

  def step(n, tokens):
    hidden, _ = model.apply(variables, tokens)
    at = jax.lax.dynamic_index_in_dim(hidden, PROMPT + n - 1, 1, False)
    new = jnp.argmax(model.apply(variables, at, method='head'), axis=-1)
    return jax.lax.dynamic_update_slice(
        tokens, new[:, None].astype(tokens.dtype), (0, PROMPT + n))

  return jax.lax.fori_loop(0, NEW, step, tokens)


def main() -> None:
  """Prints one line per measurement."""
  model = transformer.make(preset='nano', vocabulary=VOCABULARY)
  params = {'policy': transformer.initialise(model, jax.random.key(0))}
  prompts = jax.random.randint(
      jax.random.key(1), (ROWS, PROMPT), 4, VOCABULARY).at[:, 0].set(1)
  keys = jax.random.split(jax.random.key(2), ROWS)
  cached = jax.jit(functools.partial(
      policy.sample, model, max_new_tokens=NEW, stops=(), temperature=0.0))
  plain = jax.jit(functools.partial(uncached, model))
  plain = plain.lower(params, prompts).compile()  # a call takes a minute
  wall, cpu = timed(lambda: cached(params, prompts, keys), 5)
  slow, slow_cpu = timed(lambda: plain(params, prompts), 1, warm=False)
  same = jnp.array_equal(
      cached(params, prompts, keys).tokens, plain(params, prompts))
  print(f'sampling, cache:    {ROWS / wall:8.0f} completions/s wall, '
        f'{ROWS / cpu:8.0f} per CPU second')
  print(f'sampling, no cache: {ROWS / slow:8.0f} completions/s wall, '
        f'{ROWS / slow_cpu:8.0f} per CPU second')
  print(f'cache against none: {slow / wall:.1f} x wall, '
        f'{slow_cpu / cpu:.1f} x CPU; same tokens: {bool(same)}')
  train(model, params)


def train(model, params) -> None:
  """SFT at the study's shape: 64 rows of 36 tokens."""
  tx = binding.build_optimizer(num_steps=100, learning_rate=3e-4)
  tokens = jax.random.randint(
      jax.random.key(3), (64, 36), 4, VOCABULARY).at[:, 0].set(1)
  batch = Batch(tokens, jnp.ones(tokens.shape, bool).at[:, :12].set(False))
  step = jax.jit(functools.partial(
      steps.gradient_step, forward=functools.partial(policy.forward, model),
      loss=sft.loss, tx=tx))
  state = TrainState(
      jnp.zeros((), jnp.int32), params, tx.init(params), jax.random.key(0))
  wall, cpu = timed(lambda: step(state, batch), 15)
  print(f'SFT: {tokens.size / wall:8.0f} tokens/s wall, '
        f'{tokens.size / cpu:8.0f} per CPU second')


if __name__ == '__main__':
  main()
