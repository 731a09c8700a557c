"""The order of things in an epoch, a pure function of seed and epoch."""
import functools

import numpy as np
from jaxtyping import Int


@functools.lru_cache(maxsize=2)  # a batch may end one epoch and begin another
def order(count: int, seed: int, epoch: int) -> Int[np.ndarray, 'N']:
  """0 .. count - 1, shuffled.

  By sorting raw bits: numpy promises that they stay the same in later versions,
  and of its own `permutation` it does not.
  """
  bits = np.random.PCG64([seed % 2**64, epoch]).random_raw(count)
  return np.argsort(bits, kind='stable')


def at(position: int, count: int, seed: int) -> int:
  """The thing that stands at a position of all epochs, one after the other."""
  epoch, place = divmod(position, count)
  return int(order(count, seed, epoch)[place])
