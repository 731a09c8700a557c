"""The two halves of GeneralPoints as separate exercises, to pre-train on.

solve      `24 numbers 10 5 2 4 :`           ->  `10 + 5 * 2 + 4 = 24`
translate  `faces ten cards K 5 2 4 :`  ->  `10 5 2 4`

Both face rules of the game (arXiv 2508.16546) occur at random, so a model that
learned them has the out-of-distribution ability before any fine-tuning on one
rule. Compact text only.
"""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlft.ops import card_texts, formulas, solutions
from rlft.ops import cards as deck_of
from rlft.types import Task, Turn

SKILLS = ('solve', 'translate')
DRAWS = 2000  # hands tried before the rules are called impossible


class Exercise(NamedTuple):
  """The answer of a task: all that a verdict on a completion needs."""
  skill: str
  values: tuple[int, ...]
  target: int


def sample(
    rng: np.random.Generator,
    *,
    skill: str,
    faces: Sequence[int] | None = None,
    target: int = 24,
    cards: int = 4,
    split: str | None = None,
    held_out: float = 0.25,
) -> Task:
  """An exercise; `faces` None draws one of the two published rules.

  `solve` draws solvable hands, of the given split; `translate` any hand.
  ValueError for an unknown skill, bad rules or rules that no hand satisfies.
  """
  deck_of.check_choice('skill', skill, SKILLS)
  rules = deck_of.FACES if faces is None else (tuple(map(int, faces)),)
  deck_of.check_rules(rules[0], cards, target, split, held_out)
  for _ in range(DRAWS):
    rule = rules[int(rng.integers(len(rules)))]
    ranks = deck_of.draw(rng, cards)
    values = deck_of.values(ranks, rule)
    if skill == 'translate':
      return _translate(rule, ranks, values, target)
    if solutions.is_solvable(values, target) and solutions.in_split(
        values, target, split, held_out):
      numbers = ' '.join(map(str, values))
      return Task(f'{target} numbers {numbers} :',
                  Exercise(skill, values, target))
  raise ValueError(
      f'no solvable hand in {DRAWS} draws with faces={faces}, cards={cards}, '
      f'target={target}, split={split}, held_out={held_out}')


def check(
    *,
    skill: object = SKILLS[0],
    faces: object = None,
    target: object = 24,
    cards: object = 4,
    split: object = None,
    held_out: object = 0.25,
) -> None:
  """ValueError, one line, for any rule that makes no sense."""
  deck_of.check_choice('skill', skill, SKILLS)
  faces = deck_of.FACES[0] if faces is None else faces
  deck_of.check_rules(faces, cards, target, split, held_out)


def demonstrate(task: Task) -> str:
  """The completion of an oracle."""
  exercise = task.answer
  if exercise.skill == 'translate':
    return ' '.join(map(str, exercise.values))
  formula = solutions.canonical(exercise.values, exercise.target)
  return solutions.spaced(f'{formula}={exercise.target}')


def respond(task: Task, completions: list[str]) -> Turn:
  """One try: 5 and 'correct', or what the corrected game takes off."""
  exercise, completion = task.answer, completions[-1]
  if exercise.skill == 'translate':
    right = completion.split() == demonstrate(task).split()
    reward = formulas.CORRECT if right else formulas.WRONG_NUMBER
    return Turn('', reward, True,
                {'correct' if right else 'wrong_number': reward})
  verdict = formulas.judge(
      completion, exercise.values, target=exercise.target)
  return Turn('', verdict.reward, True, {verdict.cause: verdict.reward})


def _translate(
    rule: tuple[int, ...],
    ranks: tuple[int, ...],
    values: tuple[int, ...],
    target: int,
) -> Task:
  prompt = f'{card_texts.rule(rule)} cards {" ".join(deck_of.names(ranks))} :'
  return Task(prompt, Exercise('translate', values, target))
