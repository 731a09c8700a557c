"""Environments: a task, its verifier and its oracle, one file each."""
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from rlft import parts, paths
from rlft.types import Task, Turn

OFFERS = (
    'sample', 'hands', 'respond', 'demonstrate', 'mistake', 'problem', 'spans',
    'answer')


class Environment(NamedTuple):
  """The functions of one environment, with its rules filled in."""
  sample: Callable  # (rng) -> Task
  hands: Callable | None  # (seed, n) -> n distinct tasks, for evaluation
  respond: Callable  # (task, completions so far) -> Turn
  demonstrate: Callable  # (task) -> the oracle's completion
  mistake: Callable | None  # (rng, task) -> a plausible wrong completion
  problem: Callable | None  # (task) -> what tasks with one solution share
  spans: Callable | None  # (task, completion) -> [(start, stop, weight)]
  answer: Callable | None  # (task, completion) -> what votes are counted by


def bind(name: str, **rules: Any) -> Environment:
  """An environment by name; every rule goes to each function that takes it.

  Raises ValueError for an unknown environment, a rule that none takes, or a
  value that the environment's `check(*, rules)` refuses: at once, not when a
  function that reads the rule is first called.
  """
  module = parts.load('envs', name)
  found = {f: getattr(module, f, None) for f in OFFERS}
  takes = {
      f: {p.name for p in inspect.signature(g).parameters.values()
          if p.kind is p.KEYWORD_ONLY}
      for f, g in found.items() if g is not None}
  if 'hands' in takes:  # hands(seed, n, **rules) passes its rules to sample
    takes['hands'] |= takes['sample']
  known = sorted(set().union(*takes.values()))
  unknown = sorted(set(rules) - set(known))
  if unknown:
    raise ValueError(
        f'the environment {name} has no rule {", ".join(unknown)}; '
        f'known: {", ".join(known)}')
  if hasattr(module, 'check'):
    module.check(**rules)
  bound = {
      f: g and functools.partial(
          g, **{k: v for k, v in rules.items() if k in takes[f]})
      for f, g in found.items()}
  return Environment(**bound | {
      'respond': functools.partial(reply, name, bound['respond'])})


def reply(
    name: str, respond: Callable, task: Task, completions: list[str]) -> Turn:
  """What `respond` gives; ValueError unless its reward is a finite float.

  Of a whole number nobody would know whether it was cut from a share.
  """
  turn = respond(task, completions)
  whole = isinstance(turn, Turn)
  paid = turn.reward if whole else turn
  if not (whole and isinstance(paid, float) and math.isfinite(paid)):
    raise ValueError(
        f'the environment {name} gave the reward {paths.shown(repr(paid))} '
        f'({type(paid).__name__}): its respond() must give a Turn with a '
        'finite float')
  return turn
