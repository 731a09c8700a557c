"""Dynamic sampling: only prompts that teach (arXiv 2503.14476, section 3.2).

A group whose completions are all paid the same has advantages of 0: the more of
them, the fewer prompts a batch really has. So batches are sampled until as many
groups as `prompts` have unequal returns; what was sampled beyond that is
dropped, as is everything of the other groups. The paper compares correctness
(eq. 11), which is the same where rewards have two values. Rows that may not
enter the loss are not looked at, and a punishment of length comes later.
"""
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from rlft.envs import Environment
from rlft.episodes import Episode
from rlft.experience import rollouts
from rlft.ops import alarms
from rlft.types import Source


def make(
    env: Environment, *, max_batches: int = 10, **settings: Any) -> Source:
  """Rollouts, with all their keywords, of groups with unequal returns.

  At most `max_batches` batches of `prompts` groups are sampled for one of
  experience. Where they hold too few groups of the kind, the rest of the rows
  do not count (`groups_found`, `learned`); where they hold none, the run ends.
  Attempt a samples with fold_in(key, a). `reward`, `success`, outcomes and
  `tokens` are of all that was sampled.
  """
  if settings.get('group', 1) < 2:
    raise ValueError('the experience dynamic compares the completions of a '
                     'prompt: set experience.group to 2 or more')
  return rollouts.source(
      functools.partial(filled, max_batches=max_batches), env, **settings)


# what a config may say: its own keyword, and those that it hands on
make.__signature__ = inspect.Signature([
    p for function in (rollouts.make, make)
    for p in inspect.signature(function).parameters.values()
    if function is rollouts.make or p.name == 'max_batches'])


def filled(
    play: Callable, enters: Callable, key: Key[Array, ''], *, max_batches: int
) -> rollouts.Drawn:
  """Groups that teach, in the order of sampling, then others if too few.

  Halt when there are none.
  """
  telling, dull, played = [], [], []
  for attempt in range(max_batches):
    groups = play(jax.random.fold_in(key, attempt))
    for group in groups:
      played += group
      (telling if teaches(group, enters) else dull).append(group)
    if len(telling) >= len(groups):
      break
  drawn = len(telling) + len(dull)
  if not telling:
    raise alarms.Halt(
        f'none of the {drawn} groups of {attempt + 1} batches has unequal '
        'rewards: the tasks are too easy or too hard, or too few rows may '
        f'enter the loss ({np.mean([enters(e) for e in played]):.0%} do); take '
        'other tasks, or a larger experience.group, temperature or max_batches')
  full = min(len(telling), len(groups))
  return rollouts.Drawn((telling + dull)[:len(groups)], full, played, {
      'batches_drawn': attempt + 1, 'groups_drawn': drawn,
      'groups_found': len(telling)})


def teaches(group: list[Episode], enters: Callable) -> bool:
  """Whether rows of the group that may enter the loss were paid unequally."""
  return len({sum(turn.reward for turn in episode.turns)
              for episode in group if enters(episode)}) > 1
