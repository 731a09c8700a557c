"""Prompts that several rows of a sampler share are computed once."""
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from rlft.ops import sharding


def parts(*rows: int) -> int:
  """How many parts are sampled apart: one a device, if all of these split."""
  return 1 if any(n % sharding.size() for n in rows) else sharding.size()


def room(different: Sequence[int], rows: int) -> int:
  """For how many prompts a sampler of so many rows is compiled.

  `different` are those that each part of the rows has. One for each row, or
  half as many and so on, down to a sixteenth, as long as rows split: so there
  are few programs.
  """
  whole = size = rows // len(different)
  while size % 2 == 0 and size // 2 >= max(*different, whole / 16):
    size //= 2
  return size * len(different)


def shared(
    contexts: Sequence[list[int]], rows: int, parts: int,
) -> tuple[list[list[int]], Int[np.ndarray, 'B'] | None]:
  """The different prompts, and which of its part's each of `rows` rows has.

  [] and -1 for none. Where halving saves nothing, each row has its own, in
  their order, and None.
  """
  size = rows // parts
  found, different, of = [], [], np.full((rows,), -1, np.int32)
  for part in range(parts):
    numbers: dict[tuple[int, ...], int] = {}
    own = contexts[part * size:(part + 1) * size]
    for row, context in enumerate(own, part * size):
      of[row] = numbers.setdefault(tuple(context), len(numbers))
    found.append([list(context) for context in numbers])
    # a row without one counts, too: the last batch is no program of its own
    different.append(size - len(own) + len(numbers))
  most = room(different, rows)
  if most == rows:
    return [*contexts, *[[]] * (rows - len(contexts))], None
  return [context for some in found for context in (
      some + [[]] * (most // parts - len(some)))], of
