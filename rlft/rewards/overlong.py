"""Soft overlong punishment (arXiv 2503.14476, eq. 13): long rows pay.

With n the tokens of a row that count, 0 up to limit - margin, then

  -penalty * (n - (limit - margin)) / margin,    and -penalty from `limit` on.
"""
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlft.ops import masked


def penalise(
    rewards: Float[Array, 'B T'], mask: Bool[Array, 'B T'], *, limit: int,
    margin: int, penalty: float = 1.0) -> Float[Array, 'B T']:
  """Rewards with the punishment added at the last token of each row.

  `limit` and `margin` are in tokens; ValueError unless 0 < margin <= limit.
  """
  if not 0 < margin <= limit:
    raise ValueError(f'overlong: the margin {margin} must be above 0 and at '
                     f'most the limit {limit}')
  over = masked.row_count(mask) - (limit - margin)
  share = jnp.clip(over / margin, 0.0, 1.0)
  cost = masked.along_rows(penalty * share, masked.lasts(mask))
  return rewards - cost
