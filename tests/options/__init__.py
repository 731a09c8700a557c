"""The contract of no dead options: every keyword of every part does something.

A test takes the keywords from the part's signature, sets one of them to another
legal value, and asks that what the part gives is not what it was. A keyword
that the tables do not know fails with a line that says what to add.
"""
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest


class Beside(NamedTuple):
  """Another value of a keyword, and what has to be set for it to matter."""
  value: Any
  options: Mapping[str, Any]


class Part(NamedTuple):
  """A part with its keywords: what comes of them, and other values."""
  name: str
  keywords: tuple[str, ...]
  told: Callable[..., Any]  # (**options) -> what the part gives
  other: Mapping[str, Any]  # keyword -> another value, or Beside


def keywords(function: Callable, given: Iterable[str] = ()) -> tuple[str, ...]:
  """Its keywords, but for those that a run gives it."""
  return tuple(
      p.name for p in inspect.signature(function).parameters.values()
      if p.kind is p.KEYWORD_ONLY and p.name not in given)


def cases(parts: Iterable[Part]) -> list:
  return [pytest.param(part, word, id=f'{part.name}-{word}')
          for part in parts for word in part.keywords]


def check(part: Part, word: str) -> None:
  """Fails if the keyword is dead, or if no other value of it is known."""
  assert word in part.other, (
      f'{part.name} takes {word}, of which no other value is known: add one to '
      'the table of this test, with what has to be set beside it')
  entry = part.other[word]
  entry = entry if isinstance(entry, Beside) else Beside(entry, {})
  before = part.told(**entry.options)
  after = part.told(**{**entry.options, word: entry.value})
  assert differs(before, after), f'{word} of {part.name} is a dead option'


def differs(before: Any, after: Any) -> bool:
  """Whether any array, number or text of two nests is another."""
  a, b = (jax.tree.flatten(x) for x in (before, after))
  return a[1] != b[1] or any(
      not same(x, y) for x, y in zip(a[0], b[0], strict=True))


def same(x: Any, y: Any) -> bool:
  if isinstance(x, str) or isinstance(y, str) or x is None or y is None:
    return x == y
  x, y = np.asarray(x), np.asarray(y)
  return x.dtype == y.dtype and x.shape == y.shape and (
      x.tobytes() == y.tobytes())
