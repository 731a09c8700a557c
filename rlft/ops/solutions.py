"""Every infix formula of a hand of numbers that hits a target, exactly.

The enumeration of the 24 game in arXiv 2508.16546 (environment of 2501.17161):
distinct orders of the numbers x operators x bracketings. For four numbers the
bracketings are the published seven: none, one pair of parentheses around two or
three neighbours, or two pairs side by side. Rationals are exact integers.
"""
import bisect
import functools
import hashlib
import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

OPERATORS = '+-*/'
MARKS = '+-*/()='
MOST_NUMBERS = 5
LARGEST = 999  # five of them and a factor 2 per operator stay below 2^63

Tree = tuple  # of leaf indices (int) and of trees: one bracketing


class Rational(NamedTuple):
  """A grid of fractions; the denominator of an undefined one is 0."""
  top: Int[np.ndarray, '...']
  bottom: Int[np.ndarray, '...']


def solve(values: Sequence[int], target: int = 24) -> list[str]:
  """All distinct solution strings, without spaces and without `=target`.

  Sorted by (length, string). ValueError unless there are 2 to 5 numbers, each
  in 0..999.
  """
  return list(_solve(_hand(values), int(target)))


def is_solvable(values: Sequence[int], target: int = 24) -> bool:
  """Whether some formula with all the numbers equals the target."""
  return canonical(values, target) is not None


def canonical(values: Sequence[int], target: int = 24) -> str | None:
  """The one formula that demonstrations use, or None for an unsolvable hand.

  A function of the multiset alone. Of all solutions it has the fewest
  divisions, then the fewest parentheses, then the largest first number, second
  number and so on, then operators earliest in `*+-/`.
  """
  return _canonical(_hand(values), int(target))


def is_prefix(text: str, values: Sequence[int], target: int = 24) -> bool:
  """Whether some solution string begins with the text."""
  ordered = _alphabetical(_hand(values), int(target))
  at = bisect.bisect_left(ordered, text)
  return at < len(ordered) and ordered[at].startswith(text)


def in_split(
    values: Sequence[int],
    target: int,
    split: str | None,
    held_out: float,
    validation: float = 0.0,
) -> bool:
  """Whether the multiset is of 'train', 'validation', 'held_out' or None (all).

  By a stable hash of the sorted values and the target, so the share held_out of
  all multisets is held out from every seed, face rule and process, and the
  share validation of them is in neither of the other two.
  """
  if split is None:
    return True
  lot = _lot(_hand(values), int(target))
  return split == ('held_out' if lot < held_out else
                   'validation' if lot < held_out + validation else 'train')


def spaced(formula: str) -> str:
  """The formula with one space between tokens: one word per token."""
  return ' '.join(re.findall(r'[0-9]+|[^0-9\s]', formula))


def unspaced(formula: str) -> str:
  """Drops the spaces that `spaced` adds: beside + - * / ( ) = or at an end.

  A space between two other words stays, two numbers side by side are not one.
  No other white space is dropped.
  """
  words = [word for word in formula.split(' ') if word]
  kept = words[:1]
  for before, word in itertools.pairwise(words):
    if before[-1] not in MARKS and word[0] not in MARKS:
      kept.append(' ')
    kept.append(word)
  return ''.join(kept)


def check(values: Sequence[int]) -> None:
  """ValueError for a hand that no function here takes."""
  if not 2 <= len(values) <= MOST_NUMBERS:
    raise ValueError(
        f'a hand has 2 to {MOST_NUMBERS} numbers, not {len(values)}')
  if min(values) < 0 or max(values) > LARGEST:
    raise ValueError(f'a hand has numbers in 0..{LARGEST}: {list(values)}')


def _hand(values: Sequence[int]) -> tuple[int, ...]:
  check(values)
  return tuple(sorted(map(int, values)))


@functools.cache
def _lot(hand: tuple[int, ...], target: int) -> float:
  digest = hashlib.sha256(f'{target}:{hand}'.encode()).digest()
  return int.from_bytes(digest[:6], 'big') / 2**48


@functools.cache
def _canonical(hand: tuple[int, ...], target: int) -> str | None:
  def cost(formula):
    numbers = [-int(n) for n in re.findall('[0-9]+', formula)]
    operators = re.sub('[^-+*/]', '', formula)
    return (formula.count('/'), formula.count('('), numbers,
            ['*+-/'.index(o) for o in operators], formula)
  return min(_solve(hand, target), key=cost, default=None)


@functools.lru_cache(maxsize=4096)
def _alphabetical(hand: tuple[int, ...], target: int) -> tuple[str, ...]:
  return tuple(sorted(_solve(hand, target)))


def _solve(hand: tuple[int, ...], target: int) -> tuple[str, ...]:
  # A hand of five has thousands of solutions: keep few of those.
  small = len(hand) < MOST_NUMBERS
  return (_solve_small if small else _solve_large)(hand, target)


def _search(hand: tuple[int, ...], target: int) -> tuple[str, ...]:
  orders = np.array(sorted(set(itertools.permutations(hand))), np.int64)
  names = orders.astype(str).tolist()
  grid = (len(orders),) + (4,) * (len(hand) - 1)
  found = []
  for tree, template in _bracketings(len(hand)):
    top, bottom = _value(tree, orders)
    hits = (bottom != 0) & (top == target * bottom)
    places = np.nonzero(np.broadcast_to(hits, grid))
    for row, *chosen in zip(*(p.tolist() for p in places), strict=True):
      words = [''] * (2 * len(hand) - 1)
      words[::2], words[1::2] = names[row], [OPERATORS[o] for o in chosen]
      found.append(template % tuple(words))
  return tuple(sorted(found, key=lambda text: (len(text), text)))


_solve_small = functools.lru_cache(maxsize=8192)(_search)
_solve_large = functools.lru_cache(maxsize=64)(_search)


@functools.cache
def _bracketings(count: int) -> tuple[tuple[Tree, str], ...]:
  """(tree, `%s` template) of every way to put parentheses around neighbours.

  Spans of 2 to count - 1 numbers that do not overlap, in each other only from
  five numbers on: up to four numbers nesting reaches no new value.
  """
  spans = [(a, b) for a in range(count) for b in range(a + 2, count + 1)
           if b - a < count]
  nested = count >= MOST_NUMBERS

  def fit(one, other):
    apart = one[1] <= other[0] or other[1] <= one[0]
    inside = (one[0] >= other[0]) == (one[1] <= other[1]) or (
        one[0] == other[0] or one[1] == other[1])
    return apart or (nested and inside)

  return tuple(
      (_tree(0, count, chosen), _template(count, chosen))
      for size in range(count)
      for chosen in itertools.combinations(spans, size)
      if all(fit(a, b) for a, b in itertools.combinations(chosen, 2)))


def _tree(start: int, stop: int, spans: Sequence[tuple[int, int]]) -> Tree:
  items, at = [], start
  while at < stop:
    inner = [s for s in spans
             if s[0] == at and s[1] <= stop and s != (start, stop)]
    if inner:
      end = max(s[1] for s in inner)
      items.append(_tree(at, end, spans))
      at = end
    else:
      items.append(at)
      at += 1
  return tuple(items)


def _template(count: int, spans: Sequence[tuple[int, int]]) -> str:
  words = []
  for i in range(count):
    opened = '(' * sum(s[0] == i for s in spans)
    closed = ')' * sum(s[1] == i + 1 for s in spans)
    words.append(opened + '%s' + closed)
  return '%s'.join(words)


def _value(
    tree: Tree, orders: Int[np.ndarray, 'orders numbers']) -> Rational:
  """The tree under every order (axis 0) and operator (axes 1, 2, ...).

  The operator between numbers i and i + 1 varies along axis i + 1, so a part of
  the formula is only as large as the operators it contains. The value so far is
  total + term: a plus or minus closes the term, the others lengthen it.
  """
  axes = orders.shape[1]
  zero = np.zeros((1,) * axes, np.int64)
  total_top, total_bottom = zero, zero + 1
  for i, part in enumerate(tree):
    if isinstance(part, tuple):
      top, bottom = _value(part, orders)
    else:
      top = orders[:, part].reshape((-1,) + (1,) * (axes - 1))
      bottom = zero + 1
    if i == 0:
      term_top, term_bottom = top, bottom
      continue
    closes, times, sign = _operators_along(_first(part), axes)
    total_top, total_bottom = (
        np.where(closes, total_top * term_bottom + term_top * total_bottom,
                 total_top),
        np.where(closes, total_bottom * term_bottom, total_bottom))
    # Dividing by something undefined must stay undefined, not turn into 0.
    inverse = top * (bottom != 0)
    term_top = np.where(
        closes, sign * top, term_top * np.where(times, top, bottom))
    term_bottom = np.where(
        closes, bottom, term_bottom * np.where(times, bottom, inverse))
  return Rational(total_top * term_bottom + term_top * total_bottom,
                  total_bottom * term_bottom)


@functools.cache
def _operators_along(
    axis: int, axes: int
) -> tuple[Bool[np.ndarray, '...'], Bool[np.ndarray, '...'],
           Int[np.ndarray, '...']]:
  """(is + or -, is *, -1 for - else 1) of the four operators along an axis."""
  shape = [4 if i == axis else 1 for i in range(axes)]
  plus, minus, times, _ = np.eye(4, dtype=bool).reshape([4] + shape)
  return plus | minus, times, np.where(minus, -1, 1)


def _first(tree: Tree | int) -> int:
  return _first(tree[0]) if isinstance(tree, tuple) else tree
