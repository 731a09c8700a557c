"""How the numbers of tokens become one loss; chosen by name.

  token_mean       sum over tokens / number of tokens: every token the same
                   (arXiv 2503.14476, section 3.3)
  row_mean         mean over rows of the row's token mean: every completion the
                   same, so a token of a long one counts less (arXiv 2402.03300)
  constant_length  mean over rows of the row's sum / T: every token the same,
                   and long completions have a larger gradient (arXiv
                   2503.20783); T, the width of a row, is `experience.length`,
                   the same in all rollouts of a run, prompts included

Rows of which no token counts are not there. All are 0 if nothing counts.

A mean over a batch is the mean over its parts, each by its `weight`: tokens for
the first, rows for the others. A loss reports it as the metric `loss_weight`,
so that microbatches add up to the gradient of the whole.
"""
from collections.abc import Callable

from jaxtyping import Array, Bool, Float, Int

from rlft.ops import masked


def token_mean(x: Float[Array, 'B T'], mask: Bool[Array, 'B T']
               ) -> Float[Array, '']:
  """Every token weighs the same."""
  return masked.mean(x, mask)


def row_mean(x: Float[Array, 'B T'], mask: Bool[Array, 'B T']
             ) -> Float[Array, '']:
  """Every row with a token that counts weighs the same."""
  return masked.mean(masked.row_mean(x, mask), mask.any(axis=1))


def constant_length(x: Float[Array, 'B T'], mask: Bool[Array, 'B T']
                    ) -> Float[Array, '']:
  """Mean over rows of their sums, in units of T tokens."""
  sums = masked.mean(masked.row_total(x, mask), mask.any(axis=1))
  return sums / mask.shape[1]


AGGREGATIONS = {
    'token_mean': token_mean, 'row_mean': row_mean,
    'constant_length': constant_length}


def named(name: str) -> Callable:
  """The aggregation of that name; ValueError lists the known ones."""
  if name not in AGGREGATIONS:
    raise ValueError(
        f'no aggregation {name!r}; known: {", ".join(sorted(AGGREGATIONS))}')
  return AGGREGATIONS[name]


def weight(name: str, mask: Bool[Array, 'B T']) -> Int[Array, '']:
  """What a part of a batch weighs in this mean over all of it."""
  named(name)
  return masked.count(mask if name == 'token_mean' else mask.any(axis=1))
