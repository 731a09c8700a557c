"""What a rollout says of itself: whether anything can be learned from it.

  zero_spread       share of the groups whose completions were all paid the same
                    (groups of two or more only)
  empty             share of completions that are nothing but a stop
  sampling_padding  share of the token positions computed in sampling that no
                    row needed: prompts are as wide as a batch's widest, and a
                    batch goes on until its longest completion has ended
"""
import math
from collections.abc import Sequence

import numpy as np

from rlft import episodes
from rlft.types import Metrics


def measure(
    played: Sequence[episodes.Episode], *, group: int, batch: int, rows: int,
    stops: Sequence[int],
) -> Metrics:
  """All of them; groups of `group` follow one another.

  They were played `batch` at a time, and sampled `rows` at a time.
  """
  found = {'empty': empty(played, stops),
           'sampling_padding': padding(played, batch, rows)}
  if group > 1:
    paid = [sum(t.reward for t in e.turns) for e in played]
    found['zero_spread'] = zero_spread(
        [paid[at:at + group] for at in range(0, len(paid), group)])
  return found


def zero_spread(groups: Sequence[Sequence[float]]) -> float:
  """The share of groups of rewards that are all equal.

  NaN, where a verifier failed, is none.
  """
  return float(np.mean([len(set(filter(math.isfinite, paid))) < 2
                        for paid in groups]))


def empty(played: Sequence[episodes.Episode], stops: Sequence[int]) -> float:
  """The share of completions, of every turn, that are nothing but a stop."""
  written = [_written(e, turn) for e in played for turn in range(len(e.turns))]
  return float(np.mean([
      len(tokens) == 1 and tokens[0] in stops for tokens in written]))


def padding(
    played: Sequence[episodes.Episode], batch: int, rows: int) -> float:
  """Share of the positions that sampling computed for nothing.

  A completion's last token is drawn and never computed with.
  """
  needed = computed = 0
  for at in range(0, len(played), batch):
    some = played[at:at + batch]
    for turn in range(max(len(e.turns) for e in some)):
      sizes = [(e.turn_ids.index(turn), len(_written(e, turn)))
               for e in some if turn < len(e.turns)]
      for first in range(0, len(sizes), rows):
        before, wrote = zip(*sizes[first:first + rows], strict=True)
        width = episodes.width_of(max(before))
        computed += rows * (width + max(wrote) - 1)
        needed += sum(before) + sum(wrote) - len(wrote)
  return 1 - needed / computed


def _written(episode: episodes.Episode, turn: int) -> list[int]:
  return [token for token, of in zip(
      episode.tokens, episode.turn_ids, strict=True) if of == turn]
