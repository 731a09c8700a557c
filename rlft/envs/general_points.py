"""GeneralPoints: four cards, one formula that equals 24, up to five tries.

The environment of arXiv 2508.16546 section 2 (code of arXiv 2501.17161), with
the face rule stated in every prompt: J, Q, K count 10 (in distribution) or 11,
12, 13 (out of distribution). `mode='faithful'` is the published reward,
`'corrected'` the one to draw conclusions from; see rlft/ops/formulas.py.

Two texts of the same game. `compact` is one word per token for small models:

  24 faces 10 10 10 cards K 5 2 4 :       10 5 2 4 : 10 + 5 * 2 + 4 = 24
  no invalid 10 , unused 13 :             (a reply to a wrong try)

`paper` is the published prompt and its pseudo-JSON reply. The published loop
scores TRIES answers and then has a further one generated, which costs -1
whatever it says.
"""
import functools
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlft.ops import cards as deck_of
from rlft.ops import formulas, solutions
from rlft.types import Task, Turn

TRIES = 5
STEP_LIMIT = -1.0
DRAWS = 2000  # hands tried before the rules are called impossible
OUTCOMES = ('correct', 'format', 'lock_in', 'wrong_number', 'wrong_value')
TEXTS = ('compact', 'paper')
SPLITS = (None, 'train', 'held_out')

score = formulas.score
solve = solutions.solve


class Hand(NamedTuple):
  """The answer of a task: all that a verdict on a completion needs."""
  cards: tuple[int, ...]  # ranks 1..13, in prompt order
  values: tuple[int, ...]
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
    text: str = 'compact',
) -> Task:
  """A solvable hand, drawn by rejection.

  ensure_face is the published OOD sampler: one of the cards is a J, Q or K.
  `held_out` is the share of multisets of values that never occur in
  split='train' and alone occur in split='held_out', whatever the seed.
  ValueError for rules that are malformed or that no hand satisfies.
  """
  faces = deck_of.checked_faces(faces)
  _check(target, text, split, held_out)
  for _ in range(DRAWS):
    ranks = deck_of.draw(rng, cards, ensure_face=ensure_face, deck=deck)
    values = deck_of.values(ranks, faces)
    if solutions.is_solvable(values, target) and solutions.in_split(
        values, target, split, held_out):
      return _task(Hand(ranks, values, target, faces, text))
  raise ValueError(
      f'no solvable hand in {DRAWS} draws with faces={faces}, cards={cards}, '
      f'target={target}, split={split}, held_out={held_out}')


def hands(seed: int, n: int, **rules: Any) -> list[Task]:
  """n fixed tasks for evaluation, no two with the same cards in order.

  The same seed and rules give the same tasks, and the first n of a longer list.
  ValueError when the rules do not allow that many.
  """
  rng = np.random.default_rng(seed)
  tasks: dict[tuple[int, ...], Task] = {}
  for _ in range(50 * n + DRAWS):
    if len(tasks) >= n:
      return list(tasks.values())[:n]
    task = sample(rng, **rules)
    tasks.setdefault(task.answer.cards, task)
  raise ValueError(f'only {len(tasks)} different hands for {n} tasks: '
                   'ask for fewer or relax split and held_out')


def demonstrate(task: Task) -> str:
  """The completion of an oracle: right numbers, canonical formula."""
  hand = task.answer
  formula = solutions.canonical(hand.values, hand.target)
  return _completion(hand, hand.values, f'{formula}={hand.target}')


def mistake(rng: np.random.Generator, task: Task) -> str:
  """A plausible completion that is not correct in either mode."""
  hand = task.answer
  right = solutions.canonical(hand.values, hand.target)
  makers = [_other_rule, _other_operator, _other_number, _left_out, _unclosed]
  for i in rng.permutation(len(makers)).tolist():
    made = makers[i](rng, hand, right)
    if made and not any(
        _is_correct(made[1], hand, mode) for mode in formulas.MODES):
      return _completion(hand, made[0], f'{made[1]}={hand.target}')
  values, formula = _left_out(rng, hand, right)
  return _completion(hand, values, f'{formula}={hand.target}')


def respond(
    task: Task,
    completions: list[str],
    *,
    mode: str = 'corrected',
    hints: bool = True,
) -> Turn:
  """The reply to the last of a task's completions so far.

  Done when it is correct; in faithful mode a completion after the TRIES-th
  ends the episode with -1 unread. `parts` holds the outcome's reward under its
  name (one of OUTCOMES), `number_field` 1 when the stated values are right, and
  `step_limit` -1 when that ended the episode. Any text gets a reply.
  """
  hand, completion = task.answer, completions[-1]
  verdict = _judge(completion, hand, mode)
  right_field = float(_number_field(completion, hand) == list(hand.values))
  name = _outcome(verdict, completion, hand, mode)
  if mode == 'faithful' and len(completions) > TRIES:
    parts = {name: 0.0, 'step_limit': STEP_LIMIT, 'number_field': right_field}
    return Turn('', STEP_LIMIT, True, parts)
  done = verdict.cause == 'correct'
  observation = '' if done else _observation(verdict, hand, hints)
  parts = {name: verdict.reward, 'number_field': right_field}
  return Turn(observation, verdict.reward, done, parts)


def outcome(task: Task, completion: str, *, mode: str = 'corrected') -> str:
  """Which of OUTCOMES the completion is; they exclude one another.

  lock_in: exactly the values that the other face rule gives, and with them the
  formula is correct.
  """
  hand = task.answer
  return _outcome(_judge(completion, hand, mode), completion, hand, mode)


def _outcome(
    verdict: formulas.Verdict, completion: str, hand: Hand, mode: str) -> str:
  if verdict.cause == 'wrong_number':
    values = deck_of.values(hand.cards, deck_of.other_faces(hand.faces))
    if _is_correct(_formula(completion, hand), hand._replace(values=values),
                   mode):
      return 'lock_in'
  return verdict.cause


def _judge(completion: str, hand: Hand, mode: str) -> formulas.Verdict:
  return formulas.judge(
      _formula(completion, hand), hand.values, target=hand.target, mode=mode)


def _is_correct(formula: str | None, hand: Hand, mode: str) -> bool:
  return formulas.judge(
      formula, hand.values, target=hand.target, mode=mode).cause == 'correct'


def _check(
    target: int, text: str, split: str | None, held_out: float) -> None:
  if text not in TEXTS:
    raise ValueError(f'no text {text!r}; known: {", ".join(TEXTS)}')
  if split not in SPLITS:
    raise ValueError(f'no split {split!r}; known: train, held_out, None')
  if not 0 <= held_out <= 1:
    raise ValueError(f'held_out is a share in [0, 1], not {held_out}')
  if not 1 <= target <= deck_of.LARGEST:
    raise ValueError(f'target is in 1..{deck_of.LARGEST}, not {target}')


def _task(hand: Hand) -> Task:
  prompt = _compact_prompt if hand.text == 'compact' else _paper_prompt
  return Task(prompt(hand), hand)


def _compact_prompt(hand: Hand) -> str:
  faces = ' '.join(map(str, hand.faces))
  names = ' '.join(deck_of.names(hand.cards))
  return f'{hand.target} faces {faces} cards {names} :'


PAPER_PROMPT = """
[Task Description]
You are an expert {target} points card game player. You will receive {count} \
cards. Note that {faces}, and each card must be used once. Your goal is to \
output a formula that evaluates to {target} using numbers from the cards and \
the symbols '+', '-', '*', '/', '(', ')' and '='.

[Input]
Cards: {names}

[Output]
Your response should be an object in the following format:
{{
  "cards": [list of the cards, {faces}],
  "number": [{letters}],
  "formula": "an equation that equals {target}",
}}

"""


def _paper_prompt(hand: Hand) -> str:
  if len(set(hand.faces)) == 1:
    counts = f"count as '{hand.faces[0]}'."
  else:
    counts = "count as '{}', '{}', and '{}' respectively.".format(*hand.faces)
  return PAPER_PROMPT.format(
      target=hand.target, count=len(hand.cards), names=_quoted(hand),
      faces=f"'J', 'Q', and 'K' {counts}",
      letters=', '.join('abcde'[:len(hand.cards)]))


def _quoted(hand: Hand) -> str:
  return str(deck_of.names(hand.cards))


def _completion(hand: Hand, values: Sequence[int], equation: str) -> str:
  if hand.text == 'compact':
    return f'{" ".join(map(str, values))} : {solutions.spaced(equation)}'
  return (f'\n{{\n  "cards": {_quoted(hand)},\n  "number": {list(values)},\n'
          f'  "formula": "{equation}",\n}}')


def _observation(
    verdict: formulas.Verdict, hand: Hand, hints: bool) -> str:
  if hand.text == 'paper':
    return 'You failed this trial because ' + formulas.explain(
        verdict, hints=hints)
  return formulas.explain_compactly(verdict, hints=hints)


def _formula(completion: str, hand: Hand) -> str | None:
  """The formula field, None where there is none."""
  if hand.text == 'compact':
    # Spaces are how words are rendered, so they are no part of the formula.
    _, colon, formula = completion.partition(':')
    return formula.replace(' ', '') if colon else None
  found = _strict(completion, 'formula')
  if found is not None:
    return str(found)
  match = re.search(r'"formula": "(.*?)"', completion, re.DOTALL)
  return match[1] if match else None


def _number_field(completion: str, hand: Hand) -> list[int] | None:
  """The values that the completion states, None where it states none."""
  if hand.text == 'compact':
    words = completion.partition(':')[0].split()
  else:
    found = _strict(completion, 'number')
    match = re.search(r'"number": \[([^\]]*)\]', completion)
    if isinstance(found, list):
      words = [str(n) for n in found]
    else:
      words = re.split(r',\s*', match[1].strip()) if match else []
  known = {str(v): v for v in hand.values}
  return [known.get(word, -1) for word in words]


def _strict(completion: str, key: str) -> Any:
  try:
    return json.loads(completion).get(key)
  except (ValueError, AttributeError, RecursionError):
    return None


def _other_rule(rng, hand, right):
  values = deck_of.values(hand.cards, deck_of.other_faces(hand.faces))
  formula = solutions.canonical(values, hand.target)
  return (values, formula) if formula else None


def _other_operator(rng, hand, right):
  places = [i for i, c in enumerate(right) if c in '+-*/']
  place = places[int(rng.integers(len(places)))]
  swap = [c for c in '+-*/' if c != right[place]][int(rng.integers(3))]
  return hand.values, right[:place] + swap + right[place + 1:]


def _other_number(rng, hand, right):
  numbers = list(re.finditer('[0-9]+', right))
  match = numbers[int(rng.integers(len(numbers)))]
  new = str(int(rng.integers(1, 14)))
  return hand.values, right[:match.start()] + new + right[match.end():]


def _left_out(rng, hand, right):
  shorter = re.sub(r'[-+*/]?\(?[0-9]+\)*$', '', right)
  return hand.values, shorter or right[0]


def _unclosed(rng, hand, right):
  return (hand.values, right.replace(')', '', 1)) if ')' in right else None
