"""What a rollout says of itself: whether anything can be learned from it.

  zero_spread       share of the groups whose completions were all paid the same
                    (groups of two or more only)
  empty             share of completions that are nothing but a stop
  unstopped         share of completions that met no stop: they were cut
  sampling_padding  share of the token positions computed in sampling that no
                    row needed: prompts are as wide as a batch's widest, and a
                    batch goes on until its longest completion has ended
"""
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from rlft import episodes
from rlft.types import Metrics


def measure(
    played: Sequence[episodes.Episode], *, group: int, rows: int,
    stops: Sequence[int],
) -> Metrics:
  """All of them; groups follow one another, `rows` were sampled at a time."""
  empty, unstopped = endings(played, stops)
  found = {'empty': empty, 'unstopped': unstopped,
           'sampling_padding': padding(played, rows)}
  if group > 1:
    paid = np.array([sum(t.reward for t in e.turns) for e in played])
    found['zero_spread'] = zero_spread(paid.reshape(-1, group))
  return found


def zero_spread(paid: Float[np.ndarray, 'P G']) -> float:
  """The share of the P groups whose G rewards are all equal."""
  return float(np.mean(np.ptp(paid, axis=1) == 0))


def endings(
    played: Sequence[episodes.Episode], stops: Sequence[int],
) -> tuple[float, float]:
  """Shares of the completions, of every turn: nothing but a stop; no stop."""
  written = [_written(e, turn) for e in played for turn in range(len(e.turns))]
  empty = [len(tokens) == 1 and tokens[0] in stops for tokens in written]
  unstopped = [tokens[-1] not in stops for tokens in written]
  return float(np.mean(empty)), float(np.mean(unstopped))


def padding(played: Sequence[episodes.Episode], rows: int) -> float:
  """Share of the positions that sampling computed for nothing.

  A completion's last token is drawn and never computed with. Batches are those
  of `episodes.completer`.
  """
  needed = computed = 0
  for turn in range(max(len(e.turns) for e in played)):
    sizes = [(e.turn_ids.index(turn), len(_written(e, turn)))
             for e in played if turn < len(e.turns)]
    for part, width in episodes.batches([before for before, _ in sizes], rows):
      longest = max(sizes[i][1] for i in part)
      computed += rows * (width + longest - 1)
      needed += sum(sum(sizes[i]) - 1 for i in part)
  return 1 - needed / computed


def _written(episode: episodes.Episode, turn: int) -> list[int]:
  return [token for token, of in zip(
      episode.tokens, episode.turn_ids, strict=True) if of == turn]
