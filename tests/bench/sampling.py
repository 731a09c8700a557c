"""What sampling takes: prompts computed once a group, slots filled again.

  python -m tests.bench.sampling [--shapes=nano,25M] [--rounds=5]

`nano` is the shipped checkpoint on the RL config's batch, 32 hands x 8 answers
of up to 20 tokens at temperature 1; `25M` is a fresh model of that shape, 8
prompts x 8 texts of up to 128 tokens, any of which is the last with a chance
of 1 in 32, so lengths are geometric. Ways: every prompt computed for itself;
once a group; and so with fewer slots than rows. CPU seconds (wall) a batch,
medians over rounds in which every way has its turn, and how full the slots
were.
"""
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rlft import api, envs, episodes
from rlft.models import transformer
from rlft.ops import prefixes
from tests.bench import models


def nano() -> tuple:
  """Model, parameters, contexts and what the sampler is told."""
  words, model, params = api.open_checkpoint('asset:points24_nano')
  world = envs.bind(name='general_points', text='compact', mode='corrected',
                    split='train')
  rng = np.random.default_rng(0)
  hands = [words.opening(world.sample(rng).prompt) for _ in range(32)]
  return model, params, [hand for hand in hands for _ in range(8)], dict(
      pad=words.pad, stops=words.stops, max_new_tokens=20)


def fresh() -> tuple:
  """The same of a larger model that stops by chance."""
  width, layers, heads, kv_heads, hidden, vocabulary = models.SHAPES['25M']
  model = transformer.make(vocabulary=vocabulary, bos=None, shape=dict(
      width=width, layers=layers, heads=heads, kv_heads=kv_heads,
      hidden=hidden))
  params = {'policy': transformer.initialise(model, jax.random.key(0))}
  prompts = np.random.default_rng(0).integers(
      1, vocabulary, (8, 48)).tolist()
  return model, params, [p for p in prompts for _ in range(8)], dict(
      pad=0, stops=tuple(range(1, 1 + vocabulary // 32)), max_new_tokens=128)


def way(case: tuple, shared: bool, slots: int) -> Callable:
  """run() -> how full the slots were."""
  model, params, contexts, options = case
  rows = len(contexts)
  prompts, of = prefixes.shared(contexts, rows, 1) if shared else (
      contexts, None)
  width = max(map(episodes.width_of, map(len, contexts)))
  arrays = jnp.asarray(episodes.pack(
      prompts, length=width, fill=options['pad'], dtype=np.int32, prompt=width,
      starts=[len(p) for p in prompts]))
  keys = jax.random.split(jax.random.key(1), rows)
  sample = episodes.sampler(
      model, temperature=1.0, slots=slots if slots < rows else 0, **options)

  def run():
    out = jax.device_get(sample(
        params, arrays, keys, None if of is None else jnp.asarray(of)))
    return (out.mask.sum() - rows) / (out.steps * slots)

  return run


def main(words: list[str]) -> None:
  """Prints one line per way."""
  options = dict(word[2:].split('=') for word in words)
  for shape in options.get('shapes', 'nano,25M').split(','):
    case = {'nano': nano, '25M': fresh}[shape]()
    rows = len(case[2])
    ways = {'each prompt': way(case, False, rows)} | {
        f'shared, {rows // n} slots': way(case, True, rows // n)
        for n in (1, 2, 4)}
    full = {name: run() for name, run in ways.items()}
    spent = {name: [] for name in ways}
    for _ in range(int(options.get('rounds', 5))):
      for name, run in ways.items():
        cpu, wall = time.process_time(), time.monotonic()
        run()
        spent[name].append(
            (time.process_time() - cpu, time.monotonic() - wall))
    for name, pairs in spent.items():
      cpu, wall = (statistics.median(x) for x in zip(*pairs, strict=True))
      print(f'{shape}, {rows} rows, {name:18s} {cpu:7.3f} CPU s '
            f'({wall:7.3f} s), slots full {full[name]:.0%}', flush=True)


if __name__ == '__main__':
  main(sys.argv[1:])
