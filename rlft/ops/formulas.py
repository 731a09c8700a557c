"""Judging an arithmetic formula that a model wrote, never running it as code.

Own tokenizer and one-pass evaluator with two stacks: no recursion, no `eval`,
work linear in the length of the text. Source of the rules: the environment of
arXiv 2508.16546 (code of 2501.17161), in two modes.

faithful   the published reward. Every violation counts (-3 grammar, -2
           numbers), spaces are illegal, what follows the first `=` is ignored,
           the value is Python's floating point, and an unfinished solution is
           paid +1. A near miss of floating point alone is 0.
corrected  one penalty per formula: -3 not a formula, -2 wrong numbers, -1 wrong
           value or wrong right side, +5 correct. Spaces beside an operator, a
           parenthesis, = or an end are dropped; numbers side by side and any
           other white space (a line break before the =) are -3. Values are
           exact rationals. The right side may be missing; one that is there
           must be the target. Leading zeros and unclosed parentheses are -3.
"""
import collections
import fractions
import functools
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rlft.ops import solutions

MODES = ('corrected', 'faithful')
CORRECT, PARTIAL = 5.0, 1.0
WRONG_VALUE, WRONG_NUMBER, ILLEGAL = -1.0, -2.0, -3.0
MOST_NESTED = 200  # parentheses inside each other that Python still parses
MOST_DIGITS = 4300  # of an integer that Python still reads

# What the paper's feedback says; a compact one uses the keys themselves.
PAPER = {
    'correct': 'Correct solution',
    'solution': 'partial solution',
    'illegal': 'illegal characters',
    'syntax number': 'invalid sequence after number',
    'syntax operator': 'invalid sequence after operator',
    'syntax open': "invalid sequence before '('",
    'syntax close': "invalid sequence after ')'",
    'unmatched': 'unmatched closing parenthesis',
    'unmatched open': 'unmatched opening parenthesis',
    'invalid': 'you used invalid numbers: [{}]',
    'excess': 'you used numbers: [{}] too many times',
    'unused': "you didn't use numbers: [{}]",
    'partial': ('{} is partially correct but the full formula does not match'
                ' any solution'),
    'nothing': 'your formula does not match any solution',
    'target': 'the right side of your formula is not the target',
}
COMPACT = {'solution': 'partial'}  # where the words are not the key itself

_APPLY = {'+': operator.add, '-': operator.sub, '*': operator.mul,
          '/': operator.truediv}
_BINDING = {'+': 1, '-': 1, '*': 2, '/': 2}
_LEGAL = re.compile('[-+*/()0-9 ]+')
_TOKEN = re.compile('[0-9]+|[-+*/()]')


class Message(NamedTuple):
  """One remark of the verifier: a key of PAPER and what it is about."""
  kind: str
  details: tuple[str, ...] = ()  # numbers, or the one prefix of 'partial'


class Verdict(NamedTuple):
  """What a formula is worth, why, and what to tell its author."""
  reward: float
  cause: str  # correct | format | wrong_number | wrong_value
  messages: tuple[Message, ...]


def score(
    formula: str | None,
    values: Sequence[int],
    *,
    target: int = 24,
    mode: str = 'corrected',
    hints: bool = True,
) -> tuple[float, str]:
  """Reward and message for what stands in the formula field, `=24` and all.

  None is a missing formula. Without hints a wrong formula is told only that it
  is wrong. ValueError for an unknown mode or a hand that `solve` refuses.
  """
  verdict = judge(formula, values, target=target, mode=mode)
  return verdict.reward, explain(verdict, hints=hints)


def judge(
    formula: str | None,
    values: Sequence[int],
    *,
    target: int = 24,
    mode: str = 'corrected',
) -> Verdict:
  """The verdict on a formula; see the module docstring for the two modes."""
  if mode not in MODES:
    raise ValueError(f'no mode {mode!r}; known: {", ".join(MODES)}')
  solutions.check(values)
  rule = _faithful if mode == 'faithful' else _corrected
  return rule('None' if formula is None else formula, list(values), target)


def explain(verdict: Verdict, *, hints: bool = True) -> str:
  """The messages in the paper's words."""
  if not hints and verdict.cause != 'correct':
    return 'your formula is not correct.'
  return ', '.join(PAPER[m.kind].format(', '.join(m.details))
                   for m in verdict.messages) + '.'


def explain_compactly(verdict: Verdict, *, hints: bool = True) -> str:
  """The messages as words of the compact text, ending in the cue ` :`.

  Every remark once, whatever its reward. A number without a word of its own
  (above 99) is not named, nor more numbers than the largest hand has.
  """
  if not hints:
    return 'no :'
  remarks = []
  for kind, details in verdict.messages:
    if kind == 'partial':
      named = [solutions.spaced(details[0])]
    else:
      named = [d for d in details if len(d) <= 2][:solutions.MOST_NUMBERS]
    remarks.append(' '.join([COMPACT.get(kind, kind), *named]))
  return f'no {" , ".join(dict.fromkeys(remarks))} :'.replace('  ', ' ')


def evaluate(
    tokens: Sequence[str], number: Callable[[str], Any]) -> Any | None:
  """The value of a grammatical infix formula, None where it has none.

  `number` makes a number of a token (int: Python's own int and float results;
  Fraction: exact). None for a division by zero, an unclosed parenthesis or a
  missing operand.
  """
  if not tokens or _unfinished(tokens):
    return None
  operands: list[Any] = []
  waiting: list[str] = []  # operators and open parentheses
  try:
    for token in tokens:
      if token == '(':
        waiting.append(token)
      elif token == ')':
        while waiting[-1] != '(':
          _apply_last(operands, waiting)
        waiting.pop()
      elif token in _BINDING:
        while waiting and _BINDING.get(waiting[-1], 0) >= _BINDING[token]:
          _apply_last(operands, waiting)
        waiting.append(token)
      else:
        operands.append(number(token))
    while waiting:
      _apply_last(operands, waiting)
  except ArithmeticError:
    return None
  return operands[0]


def _apply_last(operands: list[Any], waiting: list[str]) -> None:
  right, left = operands.pop(), operands.pop()
  operands.append(_APPLY[waiting.pop()](left, right))


def _faithful(formula: str, values: list[int], target: int) -> Verdict:
  text = formula.split('=', 1)[0]
  tokens = re.findall(r'\d+|[-+*/()]', text)  # \d: any script, as published
  if ''.join(tokens) != text:
    return Verdict(ILLEGAL, 'format', (Message('illegal'),))
  grammar, numbers = _grammar(tokens), _numbers(tokens, values)
  if grammar or numbers:
    reward = ILLEGAL * len(grammar) + WRONG_NUMBER * len(numbers)
    cause = 'format' if grammar else 'wrong_number'
    return Verdict(reward, cause, tuple(grammar + numbers))
  parses = _parses_as_python(tokens)
  value = evaluate(tokens, int) if parses else None
  if value is not None and value == target:
    return Verdict(CORRECT, 'correct', (Message('correct'),))
  cause = 'wrong_value' if parses else 'format'
  if value is None and solutions.is_prefix(text, values, target):
    return Verdict(PARTIAL, cause, (Message('solution'),))
  remarks = _longest_prefix(tokens, values, target)
  # Nothing to remark: an exact solution that floating point missed.
  return Verdict(WRONG_VALUE if remarks else 0.0, cause, remarks)


def _corrected(formula: str, values: list[int], target: int) -> Verdict:
  left, equals, right = solutions.unspaced(formula).partition('=')
  if not _LEGAL.fullmatch(left) or (right and not _LEGAL.fullmatch(right)):
    return Verdict(ILLEGAL, 'format', (Message('illegal'),))
  if ' ' in right:  # two numbers; on the left the grammar tells
    return Verdict(ILLEGAL, 'format', (Message('syntax number'),))
  tokens = _TOKEN.findall(left)
  grammar = _grammar(tokens) or _unfinished(tokens)
  if any(t[0] == '0' and len(t) > 1 for t in tokens):
    grammar.append(Message('syntax number'))
  if grammar:
    return Verdict(ILLEGAL, 'format', tuple(grammar))
  numbers = _numbers(tokens, values)
  if numbers:
    return Verdict(WRONG_NUMBER, 'wrong_number', tuple(numbers))
  if evaluate(tokens, _fraction) != target:
    remarks = _longest_prefix(tokens, values, target)
    return Verdict(WRONG_VALUE, 'wrong_value', remarks)
  if equals and right != str(target):
    return Verdict(WRONG_VALUE, 'wrong_value', (Message('target'),))
  return Verdict(CORRECT, 'correct', (Message('correct'),))


@functools.lru_cache(maxsize=1024)
def _fraction(token: str) -> fractions.Fraction:
  return fractions.Fraction(int(token))


def _grammar(tokens: Sequence[str]) -> list[Message]:
  """What the published left-to-right scan objects to, one remark each.

  A parenthesis in a wrong place is reported, but neither opens nor closes.
  """
  remarks, depth, before = [], 0, '('
  for token in tokens:
    after_operand = before not in '+-*/('
    if token in '+-*/)':
      if not after_operand:
        kind = 'close' if token == ')' else 'operator'
        remarks.append(Message(f'syntax {kind}'))
      elif token == ')' and depth == 0:
        remarks.append(Message('unmatched'))
      elif token == ')':
        depth -= 1
    elif after_operand:
      kind = 'open' if token == '(' else 'number'
      remarks.append(Message(f'syntax {kind}'))
    elif token == '(':
      depth += 1
    before = token
  return remarks


def _unfinished(tokens: Sequence[str]) -> list[Message]:
  """What the published scan leaves unchecked: how the formula ends."""
  remarks = []
  if tokens and tokens[-1] in '+-*/':
    remarks.append(Message('syntax operator'))
  if tokens.count('(') > tokens.count(')'):
    remarks.append(Message('unmatched open'))
  return remarks


def _numbers(tokens: Sequence[str], values: Sequence[int]) -> list[Message]:
  """Strange or over-used numbers, and unused ones, against the hand.

  In order of appearance; over-use is named only where no number is strange.
  """
  used = collections.Counter(_plain(t) for t in tokens if t not in '+-*/()')
  hand = collections.Counter(map(str, values))
  strange = tuple(n for n in used if n not in hand)
  excess = tuple(n for n in used if used[n] > hand[n])
  unused = tuple(n for n in hand if used[n] < hand[n])
  first = Message('invalid', strange) if strange else Message('excess', excess)
  return [m for m in (first, Message('unused', unused)) if m.details]


def _plain(token: str) -> str:
  """A digit run as Python's int() prints it; one too long for it as it is."""
  if token.isascii() and not token.startswith('0'):
    return token
  return str(int(token)) if len(token) <= MOST_DIGITS else token


def _parses_as_python(tokens: Sequence[str]) -> bool:
  """Whether Python would accept a formula that passed the published scan."""
  depth = deepest = 0
  for token in tokens:
    depth += (token == '(') - (token == ')')
    deepest = max(deepest, depth)
    if not token.isascii() or (token[0] == '0' and token.strip('0')):
      return False
  return deepest <= MOST_NESTED and not _unfinished(tokens)


def _longest_prefix(
    tokens: Sequence[str], values: Sequence[int], target: int
) -> tuple[Message, ...]:
  """How far the formula is the beginning of a solution; () if all the way."""
  good = ''
  for token in tokens:
    if not solutions.is_prefix(good + token, values, target):
      return (Message('partial', (good,)) if good else Message('nothing'),)
    good += token
  return ()
