"""Random rollouts, with the rows at which implementations go wrong.

Masks have holes, rows begin and end anywhere; some rows have one token and some
none, some batches one token and some none; groups have one to all rows, in any
order, and some have equal returns. Numbers are drawn on a grid: returns of a
group are equal or clearly apart, and no ratio is at a clip (`settings.py`).
"""
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

B, T = 6, 10


class Batches(NamedTuple):
  """N batches; what stands off the mask is drawn like the rest, but rewards."""
  mask: Bool[np.ndarray, 'N B T']
  prompt_ids: Int[np.ndarray, 'N B']
  rewards: Float[np.ndarray, 'N B T']  # 0 off the mask
  log_probs: Float[np.ndarray, 'N B T']  # of the policy that sampled
  ref_log_probs: Float[np.ndarray, 'N B T']
  new_log_probs: Float[np.ndarray, 'N B T']  # of the policy that learns
  values: Float[np.ndarray, 'N B T']
  new_values: Float[np.ndarray, 'N B T']
  entropy: Float[np.ndarray, 'N B T']
  gains: Float[np.ndarray, 'N B T']  # advantages that a loss is given
  row_gains: Float[np.ndarray, 'N B']  # the same, of whole rows
  returns: Float[np.ndarray, 'N B T']

  @property
  def tokens(self) -> Int[np.ndarray, 'N']:
    """How many tokens of each batch count."""
    return self.mask.sum((1, 2))


def draw(seed: int, count: int) -> Batches:
  """`count` batches; the same seed gives the same."""
  rng = np.random.default_rng(seed)
  size = (count, B, T)
  mask = _masks(rng, count)
  new, gap = -_grid(rng.exponential(1.5, size)), rng.normal(0, 0.3, size)
  far = rng.random(size) < 0.08
  log_probs = new - _grid(np.where(far, rng.uniform(-3, 3, size), gap))
  values = _grid(rng.normal(0, 1, size))
  prompt_ids = rng.integers(0, rng.integers(1, B + 1, (count, 1)), (count, B))
  return Batches(
      mask, prompt_ids.astype(np.int32), _rewards(rng, mask, prompt_ids),
      log_probs, new - _grid(rng.normal(0, 0.5, size)), new, values,
      values + _grid(rng.normal(0, 0.4, size)),
      rng.exponential(1, size).astype(np.float32),
      _grid(rng.normal(0, 1, size)), _grid(rng.normal(0, 1, size[:2])),
      _grid(rng.normal(0, 1, size)))


def apart(batches: Batches) -> Int[np.ndarray, 'N B']:
  """Prompts, but a row without a token is a prompt of its own: rlft has such a
  row in no group, others have it in its prompt's, with a return of 0."""
  alone = B + np.arange(B, dtype=np.int32)
  return np.where(batches.mask.any(2), batches.prompt_ids, alone)


def counted(batches: Batches) -> Batches:
  """With a token in every row, which brings it into its group."""
  empty = ~batches.mask.any(2)[:, :, None] & (np.arange(T) == 0)
  return batches._replace(mask=batches.mask | empty)


def sizes(batches: Batches) -> Int[np.ndarray, 'N B']:
  """Of each row's group in `apart`."""
  ids = apart(batches)
  return (ids[:, :, None] == ids[:, None]).sum(2)


def _grid(x: np.ndarray) -> Float[np.ndarray, '*S']:
  return (np.round(64 * x) / 64).astype(np.float32)


def _masks(rng: np.random.Generator, count: int) -> Bool[np.ndarray, 'N B T']:
  rows = (count, B, 1)
  place = np.arange(T)
  begin = rng.integers(0, T // 2, rows)
  inside = (place >= begin) & (place < begin + rng.integers(1, T + 1, rows))
  holes = (rng.random((count, B, T)) < 0.3) & (rng.random(rows) < 0.5)
  single = place == rng.integers(0, T, rows)
  kind = rng.random(rows)
  mask = np.where(kind < 0.1, False, np.where(kind < 0.2, single,
                                              inside & ~holes))
  batch = rng.random((count, 1, 1))
  one = single & (np.arange(B)[:, None] == rng.integers(0, B, (count, 1, 1)))
  return np.where(batch < 0.02, False, np.where(batch < 0.04, one, mask))


def _rewards(
    rng: np.random.Generator, mask: np.ndarray, prompt_ids: np.ndarray,
) -> Float[np.ndarray, 'N B T']:
  """On the last token of a row, in some batches on others, too."""
  count = len(mask)
  last = mask & (np.cumsum(mask[:, :, ::-1], 2)[:, :, ::-1] == 1)
  own = np.where(rng.random((count, 1)) < 0.5,
                 rng.integers(0, 2, (count, B)),  # solved or not
                 np.round(8 * rng.normal(0, 1, (count, B))) / 8)
  group = np.take_along_axis(
      np.round(8 * rng.normal(0, 1, (count, B))) / 8, prompt_ids, 1)
  equal = np.take_along_axis(rng.random((count, B)) < 0.2, prompt_ids, 1)
  others = np.round(8 * rng.normal(0, 0.5, mask.shape)) / 8
  others *= (rng.random(mask.shape) < 0.3) & (rng.random((count, 1, 1)) < 0.3)
  score = np.where(equal, group, own)[:, :, None] * last
  return (score + others * mask * ~equal[:, :, None]).astype(np.float32)
