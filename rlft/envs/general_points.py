"""GeneralPoints: four cards, one formula that equals 24, up to five tries.

The environment of arXiv 2508.16546 section 2 (code of arXiv 2501.17161), with
the face rule stated in every prompt: J, Q, K count 10 (in distribution) or 11,
12, 13 (out of distribution). `mode='faithful'` is the published reward,
`'corrected'` the one to draw conclusions from: rlft/ops/formulas.py has both,
rlft/ops/card_texts.py the `compact` and the `paper` text.

The published loop scores TRIES answers, then has one more generated, which
costs -1 whatever it says.
"""
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlft.ops import card_texts, formulas, solutions
from rlft.ops import cards as deck_of
from rlft.types import Task, Turn

TRIES = 5
STEP_LIMIT = -1.0
DRAWS = 2000  # hands tried before the rules are called impossible
OUTCOMES = ('correct', 'format', 'lock_in', 'wrong_number', 'wrong_value')

score = formulas.score
solve = solutions.solve


class Hand(NamedTuple):
  """The answer of a task: all that a verdict on a completion needs."""
  cards: tuple[int, ...]  # ranks 1..13, in prompt order
  values: tuple[int, ...]  # what the cards count, in the same order
  target: int
  faces: tuple[int, ...]  # what J, Q and K count
  text: str


def sample(
    rng: np.random.Generator,
    *,
    faces: Sequence[int] = (10, 10, 10),
    ensure_face: bool = False,
    target: int = 24,
    cards: int = 4,
    deck: str = 'independent',
    split: str | None = None,
    held_out: float = 0.25,
    validation: float = 0.0,
    text: str = 'compact',
) -> Task:
  """A solvable hand, drawn by rejection.

  ensure_face is the published OOD sampler: one of the cards is a J, Q or K.
  `held_out` is the share of multisets of values that never occur in
  split='train' and alone occur in split='held_out', whatever the seed;
  `validation` is that of split='validation', to choose by.
  ValueError for rules that are malformed or that no hand satisfies.
  """
  deck_of.check_rules(faces, cards, target, split, held_out, validation)
  faces = tuple(map(int, faces))
  for _ in range(DRAWS):
    ranks = deck_of.draw(rng, cards, ensure_face=ensure_face, deck=deck)
    values = deck_of.values(ranks, faces)
    if solutions.is_solvable(values, target) and solutions.in_split(
        values, target, split, held_out, validation):
      return Task(card_texts.prompt(text, ranks, faces, target),
                  Hand(ranks, values, target, faces, text))
  raise ValueError(
      f'no solvable hand in {DRAWS} draws with faces={faces}, cards={cards}, '
      f'target={target}, split={split}, held_out={held_out}, '
      f'validation={validation}')


def check(
    *,
    faces: object = (10, 10, 10),
    ensure_face: object = False,
    target: object = 24,
    cards: object = 4,
    deck: object = 'independent',
    split: object = None,
    held_out: object = 0.25,
    validation: object = 0.0,
    text: object = 'compact',
    mode: object = 'corrected',
    hints: object = True,
    thought_coef: object = 0.5,
) -> None:
  """ValueError, one line, for any rule that makes no sense."""
  deck_of.check_rules(faces, cards, target, split, held_out, validation)
  for rule, value, known in (
      ('deck', deck, deck_of.DECKS), ('text', text, card_texts.TEXTS),
      ('mode', mode, formulas.MODES), ('hints', hints, (False, True)),
      ('ensure_face', ensure_face, (False, True))):
    deck_of.check_choice(rule, value, known)
  if type(thought_coef) not in (int, float) or not 0 <= thought_coef <= 1:
    raise ValueError('thought_coef is a weight between 0 and 1, not '
                     f'{thought_coef!r}')


def hands(seed: int, n: int, **rules: Any) -> list[Task]:
  """n fixed tasks for evaluation, no two with the same cards in order.

  The same seed and rules give the same tasks, whatever n: a longer list begins
  with the shorter one. ValueError when the rules do not allow that many.
  """
  rng = np.random.default_rng(seed)
  found: dict[tuple[int, ...], Task] = {}
  repeats = 0
  while len(found) < n:
    task = sample(rng, **rules)
    repeats = repeats + 1 if task.answer.cards in found else 0
    found.setdefault(task.answer.cards, task)
    if repeats > DRAWS:
      raise ValueError(f'only {len(found)} different hands for {n} tasks: '
                       'ask for fewer, or for a larger split')
  return list(found.values())


def problem(task: Task) -> tuple[int, ...]:
  """The multiset of values: hands that share it share their solutions.

  A few hundred multisets make up thousands of hands, and a model that solves
  one order of the cards tends to solve the others: intervals that count hands
  as independent are too narrow by a factor of two and more.
  """
  return tuple(sorted(task.answer.values))


def demonstrate(task: Task) -> str:
  """The completion of an oracle: right numbers, canonical formula."""
  hand = task.answer
  formula = solutions.canonical(hand.values, hand.target)
  return _write(hand, hand.values, formula)


def mistake(rng: np.random.Generator, task: Task) -> str:
  """A plausible completion that is not correct in either mode.

  At random: the solution under the other face rule, an operator or a number
  exchanged, a number left out, a parenthesis not closed.
  """
  hand = task.answer
  right = solutions.canonical(hand.values, hand.target)
  makers = (_other_rule, _other_operator, _other_number, _unclosed)
  for i in rng.permutation(len(makers) + 1).tolist():
    if i == len(makers):
      break
    values, formula = makers[i](rng, hand, right)
    if not any(formulas.judge(formula, hand.values, target=hand.target,
                              mode=mode).cause == 'correct'
               for mode in formulas.MODES):
      return _write(hand, values, formula)
  return _write(hand, hand.values, _left_out(rng, right))


def respond(
    task: Task,
    completions: list[str],
    *,
    mode: str = 'corrected',
    hints: bool = True,
) -> Turn:
  """The reply to the last of a task's completions so far; any text gets one.

  Done when it is correct. `parts` holds the reward under the name of the
  outcome (one of OUTCOMES) and `number_field`, 1 when the stated values are
  right. In faithful mode a completion after the TRIES-th goes unread: done,
  `step_limit` -1. Without hints the reply does not say what was wrong.
  ValueError for an unknown mode.
  """
  hand, completion = task.answer, completions[-1]
  stated = card_texts.number_field(hand.text, completion)
  right = float(stated == [str(v) for v in hand.values])
  if mode == 'faithful' and len(completions) > TRIES:
    return Turn('', STEP_LIMIT, True,
                {'step_limit': STEP_LIMIT, 'number_field': right})
  verdict, name = _classify(hand, completion, mode)
  parts = {name: verdict.reward, 'number_field': right}
  if verdict.cause == 'correct':
    return Turn('', verdict.reward, True, parts)
  if hand.text == 'compact':
    observation = formulas.explain_compactly(verdict, hints=hints)
  else:
    observation = 'You failed this trial because ' + formulas.explain(
        verdict, hints=hints)
  return Turn(observation, verdict.reward, False, parts)


def spans(
    task: Task, completion: str, *, thought_coef: float | int = 0.5
) -> list[tuple[int, int, float]]:
  """What comes before the formula's key weighs `thought_coef`; the rest 1.

  All of it, where there is no key. The published code then weighs its last
  five tokens 1, whatever they are.
  """
  start = card_texts.formula_start(task.answer.text, completion)
  return [(0, len(completion) if start is None else start,
           float(thought_coef))]


def outcome(task: Task, completion: str, *, mode: str = 'corrected') -> str:
  """Which of OUTCOMES the completion is; they exclude one another.

  lock_in: a formula of exactly the values that the other face rule gives, and
  correct with those.
  """
  return _classify(task.answer, completion, mode)[1]


def answer(
    task: Task, completion: str, *, mode: str = 'corrected') -> str | None:
  """What a completion votes for: its formula, `=24` and all, without spaces.

  So two agree where they write the same numbers, operators and parentheses in
  the same order; 5+7 and 7+5 are two answers. Its value would be none: every
  formula is meant to have the target's. None, no vote, for what is no formula.
  """
  verdict, _ = _classify(task.answer, completion, mode)
  formula = card_texts.formula_field(
      task.answer.text, completion, tolerant=mode != 'faithful')
  if formula is None or verdict.cause == 'format':
    return None
  return solutions.unspaced(formula)


def _classify(
    hand: Hand, completion: str, mode: str) -> tuple[formulas.Verdict, str]:
  formula = card_texts.formula_field(
      hand.text, completion, tolerant=mode != 'faithful')
  verdict = formulas.judge(
      formula, hand.values, target=hand.target, mode=mode)
  if verdict.cause == 'wrong_number':
    others = deck_of.values(hand.cards, deck_of.other_faces(hand.faces))
    if formulas.judge(formula, others, target=hand.target,
                      mode=mode).cause == 'correct':
      return verdict, 'lock_in'
  return verdict, verdict.cause


def _write(hand: Hand, values: Sequence[int], formula: str) -> str:
  return card_texts.completion(
      hand.text, hand.cards, values, f'{formula}={hand.target}')


Slip = tuple[tuple[int, ...], str]  # stated values, formula; may be correct


def _other_rule(rng: np.random.Generator, hand: Hand, right: str) -> Slip:
  values = deck_of.values(hand.cards, deck_of.other_faces(hand.faces))
  return values, solutions.canonical(values, hand.target) or right


def _other_operator(rng: np.random.Generator, hand: Hand, right: str) -> Slip:
  places = [i for i, c in enumerate(right) if c in solutions.OPERATORS]
  at = places[int(rng.integers(len(places)))]
  others = solutions.OPERATORS.replace(right[at], '')
  return hand.values, right[:at] + others[int(rng.integers(3))] + right[at + 1:]


def _other_number(rng: np.random.Generator, hand: Hand, right: str) -> Slip:
  numbers = list(re.finditer('[0-9]+', right))
  old = numbers[int(rng.integers(len(numbers)))]
  new = int(rng.integers(1, 14))
  return hand.values, f'{right[:old.start()]}{new}{right[old.end():]}'


def _unclosed(rng: np.random.Generator, hand: Hand, right: str) -> Slip:
  return hand.values, right.replace(')', '', 1)


def _left_out(rng: np.random.Generator, right: str) -> str:
  # A number goes with the operator after it, so what is left is grammatical.
  numbers = list(re.finditer('[0-9]+[-+*/]', right))
  gone = numbers[int(rng.integers(len(numbers)))]
  return right[:gone.start()] + right[gone.end():]
