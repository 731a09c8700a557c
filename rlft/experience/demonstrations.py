"""Fresh demonstrations by the environment's oracle, one per row."""
import jax
import numpy as np

from rlft import episodes
from rlft.envs import Environment
from rlft.tokenizer import Tokenizer
from rlft.types import Batch, Source


def generator(key) -> np.random.Generator:
  """A host generator that is a pure function of a JAX key."""
  return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def make(
    env: Environment, *, tokenizer: Tokenizer, rows: int, length: int,
) -> Source:
  """Batches of (rows, length), a pure function of the step's key."""

  def next_batch(state, params, metrics, key):
    del params, metrics
    rng = generator(key)
    pairs = []
    for _ in range(rows):
      task = env.sample(rng)
      pairs.append(episodes.transcript(
          tokenizer, task, (), env.demonstrate(task)))
    tokens, masks = zip(*pairs, strict=True)
    batch = Batch(
        episodes.pack(
            tokens, length=length, fill=tokenizer.pad, dtype=np.int32),
        episodes.pack(masks, length=length, fill=False, dtype=bool))
    return state, batch, {'tokens': int(sum(map(len, tokens)))}

  return Source(lambda: 0, next_batch)
