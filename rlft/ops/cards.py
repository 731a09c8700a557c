"""Playing cards: ranks 1..13, their names, and what they count under a rule.

A face rule is the values of J, Q and K: (10, 10, 10) or (11, 12, 13) in the
game of arXiv 2508.16546. A rank is 1 for A up to 13 for K.
"""
from collections.abc import Sequence

import numpy as np

RANKS = ('A', '2', '3', '4', '5', '6', '7', '8', '9', '10', 'J', 'Q', 'K')
FACES = ((10, 10, 10), (11, 12, 13))  # the two published rules: ID, OOD
DECKS = ('independent', '52')
SPLITS = (None, 'train', 'validation', 'held_out')
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


def check_rules(
    faces: object,
    cards: object,
    target: object,
    split: object,
    held_out: object,
    validation: object = 0.0,
) -> None:
  """ValueError, one line, for rules of a game that make no sense."""
  if not isinstance(faces, Sequence) or len(faces) != 3 or not all(
      f in range(1, LARGEST + 1) for f in faces):
    raise ValueError('faces are the values of J, Q and K, three integers in '
                     f'1..{LARGEST}, not {faces!r}')
  if cards not in range(2, 6):
    raise ValueError(f'a hand has 2 to 5 cards, not {cards}')
  if target not in range(1, LARGEST + 1):
    raise ValueError(f'the target is an integer in 1..{LARGEST}, not {target}')
  if split not in SPLITS:
    raise ValueError(
        f'no split {split!r}; known: train, validation, held_out or None')
  if not isinstance(held_out, float | int) or not 0 <= held_out <= 1:
    raise ValueError(f'held_out is a share between 0 and 1, not {held_out}')
  if not isinstance(validation, float | int) or not (
      validation >= 0 and held_out + validation <= 1):
    raise ValueError('validation is a share of what held_out leaves, '
                     f'{1 - held_out:g}, not {validation}')


def check_choice(rule: str, value: object, known: Sequence[object]) -> None:
  """ValueError, one line that lists the known, for another value."""
  if not any(type(k) is type(value) and k == value for k in known):
    raise ValueError(f'no {rule} {value!r}; known: '
                     f'{", ".join(map(str, known))}')


def draw(
    rng: np.random.Generator,
    count: int,
    *,
    ensure_face: bool = False,
    deck: str = 'independent',
) -> tuple[int, ...]:
  """Ranks of a hand, in order.

  `independent` draws every rank uniformly (published), `52` deals from one
  deck. With ensure_face one card is drawn among the J, Q, K, the others as
  usual, and the hand is shuffled (the published OOD sampler). ValueError for
  an unknown deck.
  """
  if deck == 'independent':
    ranks = rng.integers(1, 14, count).tolist()
    if ensure_face:
      ranks[0] = int(rng.integers(11, 14))
  elif deck == '52':
    dealt = rng.permutation(52).tolist()  # card // 4 + 1 is its rank
    if ensure_face:
      first = int(rng.integers(40, 52))
      dealt = [first] + [c for c in dealt if c != first]
    ranks = [c // 4 + 1 for c in dealt[:count]]
  else:
    check_choice('deck', deck, DECKS)
  if ensure_face:
    ranks = [ranks[i] for i in rng.permutation(count).tolist()]
  return tuple(ranks)
