"""What became of a completion: six kinds that exclude one another.

An environment has names of its own for what it found, the first of
`Turn.parts`; whoever counts, or decides what is learned from, goes by kinds:

  correct     accepted by the verifier, cut or not
  wrong       read by the verifier, and not right
  unparsable  not to be read: the environment says `format` or `unparsable`
  truncated   not correct, and cut before it met a stop, whatever else it is
  timed_out   the verifier did not answer in time (rlft/verifiers.py)
  crashed     the verifier raised, or its process died
"""
import math
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from rlft import episodes
from rlft.types import Metrics, Turn
from rlft.verifiers import FAILURES

LEARNED = ('correct', 'wrong', 'unparsable', 'truncated')
KINDS = (*LEARNED, *FAILURES)
UNREAD = ('format', 'unparsable')  # what environments call it


def named(turn: Turn) -> str:
  """The environment's own name for what it found."""
  return next(name for name in turn.parts if name != 'number_field')


def kind(turn: Turn, truncated: bool) -> str:
  """Which of KINDS a turn is; `truncated`: it met no stop."""
  name = named(turn)
  if name in ('correct', *FAILURES):
    return name
  if truncated:
    return 'truncated'
  return 'unparsable' if name in UNREAD else 'wrong'


def rates(kinds: Sequence[str]) -> Metrics:
  """The share of each kind: outcome_correct, ..., which add up to 1."""
  return {f'outcome_{name}': kinds.count(name) / len(kinds) for name in KINDS}


def end(
    episode: episodes.Episode, stops: Sequence[int]) -> tuple[str, bool]:
  """The kind of an episode's last turn, and whether that was cut."""
  cut = episodes.was_cut(episode, stops)
  return kind(episode.turns[-1], cut), cut


def count(
    played: Sequence[episodes.Episode], stops: Sequence[int]) -> Metrics:
  """What environments said, in their own units, and how much was sampled.

  A verifier that failed has no reward to tell, so `reward` is of the others.
  """
  kinds, cut = zip(*(end(e, stops) for e in played), strict=True)
  returns = [sum(t.reward for t in e.turns) for e in played]
  return {
      'reward': float(np.mean([r for r in returns if math.isfinite(r)])),
      'success': kinds.count('correct') / len(kinds),
      'truncated': float(np.mean(cut)),
      **rates(kinds),
      'unjudged': sum(map(kinds.count, FAILURES)) / len(kinds),
      'turns': float(np.mean([len(e.turns) for e in played])),
      'tokens': float(sum(len(e.tokens) for e in played)),
      'samples': float(sum(len(e.turns) for e in played)),
  }


def admitting(
    kinds: Collection[str], stops: Sequence[int], truncated: bool) -> Callable:
  """enters(episode): whether it is of these kinds, and whole or `truncated`."""

  def enters(episode):
    name, cut = end(episode, stops)
    return name in kinds and (truncated or not cut)

  return enters


def known(wanted: Iterable[str], where: str) -> frozenset[str]:
  """These kinds; ValueError, naming `where`, for none or an unknown one."""
  found = (wanted,) if isinstance(wanted, str) else tuple(wanted)
  odd = [name for name in found if name not in KINDS]
  if odd or not found:
    raise ValueError(
        f'{where} {f"has no kind {odd[0]!r}" if odd else "is empty"}; known: '
        f'{", ".join(KINDS)}')
  return frozenset(found)
