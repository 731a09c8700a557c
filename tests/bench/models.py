"""Training and generation beside transformers + torch, same shapes, one run.

  python -m tests.bench.models [--shapes=1M,25M] [--rounds=3]

Llama shapes in float32 on two threads. Each engine runs in a process of its
own, by turns, so that what the machine does meanwhile meets both; medians over
the rounds. Tokens per CPU second, wall beside it. Training: one SFT step
(AdamW, all tokens counted but the first quarter), for torch eager and, where it
works, `torch.compile`. Generation: greedy, batch 64, 32 tokens and 64 new, no
row stops. Floor: what the matrix products alone take at the rate that each
engine reaches on the model's own MLP products. Torch is `pip install
torch==2.13.0`; without it only ours is timed.
"""
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

THREADS = 2
SHAPES = {  # width, layers, heads, key heads, hidden, vocabulary
    '1M': (128, 4, 4, 2, 448, 1024),
    '25M': (512, 6, 8, 4, 1408, 8192),
    '1.2B': (2048, 16, 32, 8, 8192, 128256)}  # of gpu_models.py
ROWS = {'1M': (64, 64), '25M': (8, 256), '1.2B': (4, 2048)}  # of a step
BATCH, PROMPT, NEW = 64, 32, 64
ENGINES = ('ours', 'eager', 'compiled')


def products(shape: str) -> int:
  """Multiplications with weights per token, forward."""
  width, layers, heads, kv, hidden, vocabulary = SHAPES[shape]
  attention = width * width * (2 + 2 * kv / heads)
  return int(layers * (attention + 3 * width * hidden) + width * vocabulary)


def timed(run, repeats: int) -> tuple[float, float]:
  """Median CPU and wall seconds of `run`, after one that compiles."""
  run()
  found = []
  for _ in range(repeats):
    cpu, wall = time.process_time(), time.monotonic()
    run()
    found.append((time.process_time() - cpu, time.monotonic() - wall))
  return tuple(statistics.median(x) for x in zip(*found, strict=True))


def ours(shape: str, dtype: str = 'float32') -> tuple[Callable, ...]:
  """JAX: the library's own step, sampler, and one product of its MLP."""
  import functools

  import jax
  import jax.numpy as jnp

  from rlft import binding, policy
  from rlft.models import transformer
  from rlft.objectives import sft
  from rlft.training import steps
  from rlft.types import Batch, TrainState

  width, layers, heads, kv_heads, hidden, vocabulary = SHAPES[shape]
  model = transformer.make(
      vocabulary=vocabulary, bos=None, dtype=dtype, shape=dict(
          width=width, layers=layers, heads=heads, kv_heads=kv_heads,
          hidden=hidden))
  params = {'policy': transformer.initialise(model, jax.random.key(0))}
  rows, length = ROWS[shape]
  tokens = jax.random.randint(
      jax.random.key(1), (rows, length), 1, vocabulary)
  batch = Batch(tokens, jnp.ones(tokens.shape, bool).at[:, :length // 4].set(
      False))
  tx = binding.build_optimizer(num_steps=100, learning_rate=3e-4)
  step = jax.jit(functools.partial(
      steps.gradient_step, forward=functools.partial(policy.forward, model),
      loss=sft.loss, tx=tx), donate_argnums=0)
  state = TrainState(
      jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params),
      tx.init(params), jax.random.key(0))

  def train():
    nonlocal state
    state, _ = jax.block_until_ready(step(state, batch))

  prompts = tokens.reshape(-1)[:BATCH * PROMPT].reshape(BATCH, PROMPT)
  prompts = jnp.resize(prompts, (BATCH, PROMPT))
  keys = jax.random.split(jax.random.key(2), BATCH)
  sample = jax.jit(functools.partial(
      policy.sample, model, max_new_tokens=NEW, stops=(), temperature=0.0))
  x = jnp.ones((rows * length, width), dtype)
  w = jnp.ones((width, hidden), dtype)
  dot = jax.jit(lambda x, w: x @ w)
  stored = jax.tree.map(lambda x: x.astype(dtype), params)
  return (train,
          lambda: jax.block_until_ready(sample(stored, prompts, keys)),
          lambda: jax.block_until_ready(dot(x, w)))


def torch_way(
    shape: str, compiled: bool, dtype: str = 'float32', device: str = 'cpu',
) -> tuple[Callable, ...]:
  """The same of transformers' Llama in torch."""
  import torch
  import transformers

  torch.set_num_threads(THREADS)
  torch.manual_seed(0)
  width, layers, heads, kv_heads, hidden, vocabulary = SHAPES[shape]
  model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
      vocab_size=vocabulary, hidden_size=width, intermediate_size=hidden,
      num_hidden_layers=layers, num_attention_heads=heads,
      num_key_value_heads=kv_heads, tie_word_embeddings=False,
      max_position_embeddings=4096, pad_token_id=0, bos_token_id=None,
      eos_token_id=None)).to(device)
  cast = torch.autocast(device, getattr(torch, dtype), dtype != 'float32')
  rows, length = ROWS[shape]
  tokens = torch.randint(1, vocabulary, (rows, length), device=device)
  labels = tokens.clone()
  labels[:, :length // 4] = -100
  tx = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(.9, .95),
                         fused=True)
  if compiled:
    model.forward = torch.compile(model.forward)

  def train():
    tx.zero_grad(set_to_none=True)
    with cast:
      told = model(input_ids=tokens, labels=labels, use_cache=False)
    told.loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    tx.step()

  prompts = tokens.reshape(-1)[:BATCH * PROMPT].reshape(-1, PROMPT)
  prompts = prompts.repeat(-(-BATCH // len(prompts)), 1)[:BATCH]
  options = dict(cache_implementation='static') if compiled else {}

  def generate():
    with torch.no_grad():
      model.to(getattr(torch, dtype)).generate(
          prompts, attention_mask=torch.ones_like(prompts), do_sample=False,
          max_new_tokens=NEW, min_new_tokens=NEW, use_cache=True, **options)

  x = torch.ones(rows * length, width, device=device)
  w = torch.ones(width, hidden, device=device)
  return train, generate, lambda: torch.matmul(x, w)


def told(train, generate, dot, shape) -> dict:
  """Rates and floors of one engine in one round."""
  rows, length = ROWS[shape]
  width, hidden = SHAPES[shape][0], SHAPES[shape][4]
  rate = rows * length * width * hidden / dot[0]  # products per CPU second
  tokens, new = rows * length, BATCH * NEW
  return {
      'train': tokens / train[0], 'train_wall': tokens / train[1],
      'train_floor': rate / (3 * products(shape)),
      'generate': new / generate[0], 'generate_wall': new / generate[1],
      'generate_floor': rate / products(shape)}


def child(engine: str, shape: str) -> dict | None:
  """The rates of an engine in a process of its own; None if it fails."""
  done = subprocess.run(
      [sys.executable, '-m', 'tests.bench.models', 'child', engine, shape],
      capture_output=True, text=True, check=False, env=os.environ | {
          'OMP_NUM_THREADS': str(THREADS), 'JAX_PLATFORMS': 'cpu'})
  if done.returncode:
    print(f'{engine} {shape}: failed, '
          f'{(done.stderr.strip().splitlines() or ["?"])[-1][:200]}')
    return None
  return json.loads(done.stdout.strip().splitlines()[-1])


def main(words: list[str]) -> None:
  """Prints a table for each shape."""
  if words[:1] == ['child']:
    engine, shape = words[1:]
    train, generate, dot = ours(shape) if engine == 'ours' else torch_way(
        shape, engine == 'compiled')
    print(json.dumps(told(
        timed(train, 5), timed(generate, 3), timed(dot, 20), shape)))
    return
  options = dict(word[2:].split('=') for word in words)
  engines = list(ENGINES)
  if importlib.util.find_spec('torch') is None:
    print('torch is not installed (pip install torch==2.13.0): ours alone')
    engines = ['ours']
  for shape in options.get('shapes', '1M,25M').split(','):
    table(shape, engines, int(options.get('rounds', 3)))


def table(shape: str, engines: list[str], rounds: int) -> None:
  """Medians over rounds in which every engine has its turn."""
  found = {engine: [] for engine in engines}
  for _ in range(rounds):
    for engine in list(found):
      row = child(engine, shape)
      if row is None:
        del found[engine]
      else:
        found[engine].append(row)
  middle = {engine: {k: statistics.median(r[k] for r in rows) for k in rows[0]}
            for engine, rows in found.items() if rows}
  mine = middle['ours']
  print(f'{shape}: {products(shape) / 1e6:.1f} M products a token')
  for engine, row in middle.items():
    for what in ('train', 'generate'):
      print(f'  {what:8s} {engine:8s} {row[what]:9.0f} tokens per CPU s '
            f'({row[what + "_wall"]:9.0f} per s), products alone '
            f'{row[what + "_floor"]:9.0f}; ours is '
            f'{mine[what] / row[what]:.2f} x')


if __name__ == '__main__':
  main(sys.argv[1:])
