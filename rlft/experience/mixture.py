"""Demonstrations of several skills, packed several to a row.

A document begins with the begin token; attention and positions never cross it
(`models/transformer.py`), so packing changes nothing but the padding.
"""
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlft import envs, episodes
from rlft.experience.demonstrations import generator
from rlft.tokenizer import Tokenizer
from rlft.types import Batch, Source


def make(
    env: Any = None, *, tokenizer: Tokenizer, rows: int, length: int,
    skills: Mapping[str, Mapping[str, Any]],
) -> Source:
  """Batches of (rows, length) filled with documents of random skills.

  `skills` maps a name to dict(weight, env, mistakes=0): the share of documents,
  the environment's section, and the largest number of failed tries with their
  feedback that stand before the answer (uniform from 1 when above 0).
  """
  del env
  bound = {
      name: (envs.bind(**dict(skill['env'])), int(skill.get('mistakes', 0)))
      for name, skill in skills.items()}
  names = sorted(bound)
  weights = np.array([float(skills[name]['weight']) for name in names])
  shares = weights / weights.sum()

  def document(rng):
    env, mistakes = bound[names[rng.choice(len(names), p=shares)]]
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
      if len(token_rows[row]) + len(tokens) > length:
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
