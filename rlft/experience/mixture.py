"""Demonstrations of several skills, packed several to a row.

A document begins with the begin token; attention and positions never cross it
(`models/transformer.py`), so packing changes nothing but the padding. Those of
a tokenizer without one (`bos` is None) have a row each.
"""
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlft import envs, episodes, parts
from rlft.experience.demonstrations import generator
from rlft.tokenizer import Tokenizer
from rlft.types import Batch, Source


def make(
    *, tokenizer: Tokenizer, rows: int, length: int,
    skills: Mapping[str, Mapping[str, Any]],
) -> Source:
  """Batches of (rows, length) filled with documents of random skills.

  `skills` maps a name to dict(weight, env, mistakes=0): the share of documents,
  the environment's section, and the largest number of failed tries with their
  feedback that stand before the answer (uniform from 1 when above 0).
  """
  if not skills:
    raise ValueError('experience.skills is empty: name a skill')
  bound = []
  for name in sorted(skills):
    where = f'experience.skills.{name}'
    with parts.named(f'config.{where}'):
      bound.append(parts.fill(bind_skill, where, **skills[name])())
  weights = np.array([weight for weight, _, _ in bound])
  shares = weights / weights.sum()

  def document(rng):
    _, env, mistakes = bound[rng.choice(len(bound), p=shares)]
    task = env.sample(rng)
    wrong, tries = [], []
    for _ in range(rng.integers(1, mistakes + 1) if mistakes else 0):
      wrong.append(env.mistake(rng, task))
      tries.append((wrong[-1], env.respond(task, wrong).observation))
    return episodes.transcript(tokenizer, task, tries, env.demonstrate(task))

  def next_batch(state, params, metrics, key):
    del params, metrics
    rng = generator(key)
    token_rows = [[] for _ in range(rows)]
    mask_rows = [[] for _ in range(rows)]
    counted, row = 0, 0
    while row < rows:
      tokens, mask = document(rng)
      if len(tokens) > length:
        raise ValueError(
            f'a document of {len(tokens)} tokens does not fit in {length}: '
            'raise experience.length')
      alone = tokenizer.bos is None and token_rows[row]
      if alone or len(token_rows[row]) + len(tokens) > length:
        row += 1
        if row == rows:
          break
      token_rows[row] += tokens
      mask_rows[row] += mask
      counted += len(tokens)
    batch = Batch(
        episodes.pack(
            token_rows, length=length, fill=tokenizer.pad, dtype=np.int32),
        episodes.pack(mask_rows, length=length, fill=False, dtype=bool))
    return state, batch, {'tokens': counted}

  return Source(lambda: 0, next_batch)


def bind_skill(
    *, weight: float, env: Mapping[str, Any], mistakes: int = 0,
) -> tuple[float, envs.Environment, int]:
  """A skill's share, its environment and the failed tries before an answer."""
  bound = envs.bind(**env)
  if not weight > 0:
    raise ValueError(f'a skill of weight {weight}: give one above 0')
  if mistakes and bound.mistake is None:
    raise ValueError(f'{env["name"]} offers no mistakes: set mistakes=0')
  return float(weight), bound, mistakes
