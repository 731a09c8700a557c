"""majority@k: is the answer that most of k samples give a right one?

Self-consistency (arXiv 2203.11171, section 2): every sample votes for its
answer, and the answer with the most votes is given.
"""
from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Float


def estimate(
    answers: Sequence[Sequence[Hashable]], right: Bool[np.ndarray, 'N H'],
    k: int,
) -> Float[np.ndarray, 'H']:
  """majority@k of each of H tasks, from N >= k independent samples of each.

  `answers[i][h]` is what sample i votes for, None for nothing. The mean over
  the N // k sets of k samples that follow one another: unbiased, as each is as
  good as any other. See `vote` for ties.
  """
  count, tasks = right.shape
  sets = [slice(at, at + k) for at in range(0, count - k + 1, k)]
  return np.array([
      np.mean([vote([row[task] for row in answers[part]], right[part, task])
               for part in sets]) for task in range(tasks)])


def vote(
    answers: Sequence[Hashable], right: Bool[np.ndarray, 'K']) -> float:
  """How likely the elected answer is right; 0 where nobody votes.

  One of several with the most votes is drawn, each as likely; where a verifier
  finds samples of one answer right and others not, it is right in part.
  """
  held = {}
  for answer, good in zip(answers, right.tolist(), strict=True):
    if answer is not None:
      held.setdefault(answer, []).append(good)
  most = max(map(len, held.values()), default=0)
  return float(np.mean([np.mean(good) for good in held.values()
                        if len(good) == most])) if held else 0.0
