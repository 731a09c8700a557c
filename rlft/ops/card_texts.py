"""The two texts of the 24 game: how it is asked, answered and read.

`compact` is one word per token, for small models:

  prompt      24 faces ten cards K 5 2 4 :
  completion  10 5 2 4 : 10 + 5 * 2 + 4 = 24

The two published rules are a word each, `ten` and `rank`, so that what they
mean is in the weights; any other is spelled out, `faces 9 9 9`.

`paper` has the sections and the pseudo-JSON reply of arXiv 2508.16546, whose
trailing comma and single quotes make it no JSON; it is read by pattern.
"""
import json
import re
from collections.abc import Sequence
from typing import Any

from rlft.ops import cards as deck
from rlft.ops import solutions

RULES = {(10, 10, 10): 'ten', (11, 12, 13): 'rank'}
TEXTS = ('compact', 'paper')

PAPER_PROMPT = """
[Task Description]
You are an expert {target} points card game player. You will receive a set of \
{count} cards. Note that {rule}, and each card must be used once. Your goal is \
to output a formula that evaluates to {target} using the numbers of the cards \
and the symbols '+', '-', '*', '/', '(', ')' and '='.

[Input]
Cards: {names}

[Output]
{{
  "cards": [the cards, where {rule}],
  "number": [{letters}], the numbers of the cards,
  "formula": an equation that equals {target},
}}

"""

PAPER_COMPLETION = """
{{
  "cards": {names},
  "number": {values},
  "formula": "{equation}",
}}"""

# No pattern can run across the start of its own next match, so the search is
# linear in the text whatever a model wrote.
_PUBLISHED_FORMULA = re.compile('"formula": "([^"\n]*)"')
_FORMULA = re.compile(r'["\']formula["\']\s*:\s*["\']([^"\'\n]*)["\']')
_KEY = re.compile(r'["\']formula["\']\s*:')
_NUMBERS = re.compile(r'["\']number["\']\s*:\s*\[([^][]*)\]')


def rule(faces: Sequence[int]) -> str:
  """The compact words for what J, Q and K count."""
  word = RULES.get(tuple(faces))
  return f'faces {word or " ".join(map(str, faces))}'


def prompt(
    text: str, cards: Sequence[int], faces: Sequence[int], target: int) -> str:
  """What a model is asked; `text` is one of TEXTS, else ValueError."""
  names = deck.names(cards)
  if text == 'compact':
    return f'{target} {rule(faces)} cards {" ".join(names)} :'
  if text != 'paper':
    raise ValueError(f'no text {text!r}; known: {", ".join(TEXTS)}')
  if len(set(faces)) == 1:
    counts = f"count as '{faces[0]}'."
  else:
    counts = "count as '{}', '{}', and '{}' respectively.".format(*faces)
  return PAPER_PROMPT.format(
      target=target, count=len(cards), names=names,
      rule=f"'J', 'Q', and 'K' {counts}",
      letters=', '.join('abcde'[:len(cards)]))


def completion(
    text: str, cards: Sequence[int], values: Sequence[int], equation: str
) -> str:
  """An answer as a model should write it; the equation has no spaces."""
  if text == 'compact':
    return f'{" ".join(map(str, values))} : {solutions.spaced(equation)}'
  return PAPER_COMPLETION.format(
      names=deck.names(cards), values=list(values), equation=equation)


def formula_field(
    text: str, written: str, *, tolerant: bool = True) -> str | None:
  """The formula of a completion, None where it has none.

  compact: what follows the first colon; spaces beside an operator, parenthesis
  or = are rendering and dropped. paper: strict JSON, else the first match of
  the published pattern; the tolerant one also takes single quotes and other
  spacing.
  """
  if text == 'compact':
    _, colon, formula = written.partition(':')
    return solutions.unspaced(formula) if colon else None
  found = _json_field(written, 'formula')
  if isinstance(found, str):
    return found
  match = (_FORMULA if tolerant else _PUBLISHED_FORMULA).search(written)
  return match[1] if match else None


def formula_start(text: str, written: str) -> int | None:
  """Where the formula and its key begin, None where there is no key.

  compact: at the first colon. paper: at the last quoted `formula`, as in the
  published log-prob of a turn.
  """
  if text == 'compact':
    at = written.find(':')
    return at if at >= 0 else None
  found = [match.start() for match in _KEY.finditer(written)]
  return found[-1] if found else None


def number_field(text: str, written: str) -> list[str]:
  """The values that a completion states, as words; [] where it has none."""
  if text == 'compact':
    return written.partition(':')[0].split()
  found = _json_field(written, 'number')
  if isinstance(found, list):
    return [str(n) if type(n) is int else '' for n in found]
  match = _NUMBERS.search(written)
  return [w.strip(' \n"\'') for w in match[1].split(',')] if match else []


def _json_field(written: str, key: str) -> Any:
  try:
    return json.loads(written).get(key)
  except (ValueError, AttributeError, RecursionError):
    return None
