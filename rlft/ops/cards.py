"""Playing cards: ranks 1..13, their names, and what they count under a rule.

A face rule is the values of J, Q and K: (10, 10, 10) or (11, 12, 13) in the
game of arXiv 2508.16546. A rank is 1 for A up to 13 for K.
"""
from collections.abc import Sequence

import numpy as np

RANKS = ('A', '2', '3', '4', '5', '6', '7', '8', '9', '10', 'J', 'Q', 'K')
FACES = ((10, 10, 10), (11, 12, 13))  # the two published rules: ID, OOD
DECKS = ('independent', '52')
LARGEST = 99  # a value that the compact text has a word for


def names(ranks: Sequence[int]) -> list[str]:
  """What is printed on the cards."""
  return [RANKS[rank - 1] for rank in ranks]


def values(ranks: Sequence[int], faces: Sequence[int]) -> tuple[int, ...]:
  """What the cards count when J, Q and K count `faces`."""
  return tuple(r if r <= 10 else faces[r - 11] for r in ranks)


def other_faces(faces: Sequence[int]) -> tuple[int, ...]:
  """The rule that a model may have memorised instead of this one."""
  return FACES[1] if tuple(faces) == FACES[0] else FACES[0]


def checked_faces(faces: Sequence[int]) -> tuple[int, ...]:
  """The rule as a tuple; ValueError unless it is three numbers in 1..99."""
  faces = tuple(int(f) for f in faces)
  if len(faces) != 3 or not all(1 <= f <= LARGEST for f in faces):
    raise ValueError(
        f'faces are the values of J, Q, K, three in 1..{LARGEST}: {faces}')
  return faces


def draw(
    rng: np.random.Generator,
    count: int,
    *,
    ensure_face: bool = False,
    deck: str = 'independent',
) -> tuple[int, ...]:
  """Ranks of a hand, in order.

  `independent` draws every rank uniformly (published), `52` deals from one
  deck. With ensure_face one of the cards is drawn among the face cards, the
  others as usual, and the hand is shuffled. ValueError for an unknown deck.
  """
  if deck not in DECKS:
    raise ValueError(f'no deck {deck!r}; known: {", ".join(DECKS)}')
  if deck == 'independent':
    ranks = rng.integers(1, 14, count).tolist()
    if ensure_face:
      ranks[0] = int(rng.integers(11, 14))
  else:
    cards = rng.permutation(52).tolist()  # card // 4 + 1 is its rank
    if ensure_face:
      first = int(rng.integers(40, 52))
      cards = [first] + [c for c in cards if c != first]
    ranks = [c // 4 + 1 for c in cards[:count]]
  if ensure_face:
    ranks = [ranks[i] for i in rng.permutation(count).tolist()]
  return tuple(ranks)
