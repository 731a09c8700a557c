"""pass@k: how likely one of k samples solves a task (arXiv 2107.03374, eq. 1).
"""
import math

import numpy as np
from jaxtyping import Bool, Float


def estimate(wins: Bool[np.ndarray, 'N H']) -> Float[np.ndarray, 'N H']:
  """pass@1 to pass@N of each of H tasks, from N independent samples of each.

  Unbiased: 1 - C(N - c, k) / C(N, k) for c solved of N, the share of the sets
  of k samples that hold a solved one. Row k - 1 is pass@k.
  """
  count = len(wins)
  table = np.array([[1 - math.comb(count - c, k) / math.comb(count, k)
                     for c in range(count + 1)] for k in range(1, count + 1)])
  return table[:, wins.sum(axis=0)]
