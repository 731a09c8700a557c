"""Statistics of the completions of one prompt: of rows that share an id.

A group may have any size and its rows stand anywhere in the batch. Rows where
`counts` is False belong to no group. All rows of a group have to be there, so
advantages are computed of a whole rollout, before it is split into minibatches.

Numbers that are equal have exactly their own value as mean: sums are taken of
the distances from the group's largest, so a group of equal returns teaches
nothing, not even rounding. Every pair of rows is looked at (B x B), and sums
are added in a fixed order, as a scatter on an accelerator would not.
"""
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlft.ops import masked


def mean(x: Float[Array, 'B'], ids: Int[Array, 'B'], counts: Bool[Array, 'B']
         ) -> Float[Array, 'B']:
  """Mean of each row's group; 0 for rows that do not count."""
  return _mean_over(x, members(ids, counts), members(ids, counts))


def leave_one_out(
    x: Float[Array, 'B'], ids: Int[Array, 'B'], counts: Bool[Array, 'B']
) -> Float[Array, 'B']:
  """Mean of the others of each row's group (arXiv 2402.14740, section 2.3).

  In a group of one it is the row's own number: with nothing to compare with,
  nothing is learned.
  """
  same = members(ids, counts)
  others = same & ~jnp.eye(len(x), dtype=bool)
  alone = masked.row_count(same) == 1
  return jnp.where(alone, masked.keep(x, counts), _mean_over(x, same, others))


def deviation(
    x: Float[Array, 'B'], ids: Int[Array, 'B'], counts: Bool[Array, 'B']
) -> Float[Array, 'B']:
  """Population deviation (divides by n) of each row's group."""
  x = masked.keep(x, counts)
  return jnp.sqrt(mean(jnp.square(x - mean(x, ids, counts)), ids, counts))


def standardised(
    x: Float[Array, 'B'], ids: Int[Array, 'B'], counts: Bool[Array, 'B'], *,
    epsilon: float = 1e-6) -> Float[Array, 'B']:
  """(x - mean) / (deviation + epsilon) in each row's group.

  0 in a group of one or of equal numbers. `epsilon`, in units of x, keeps
  numbers that differ by rounding from becoming advantages of one.
  """
  centred = masked.keep(x, counts) - mean(x, ids, counts)
  return centred / (deviation(x, ids, counts) + epsilon)


def copies(
    tokens: Int[Array, 'B T'], mask: Bool[Array, 'B T'], ids: Int[Array, 'B']
) -> Int[Array, 'B']:
  """How many rows of each row's group wrote the same, itself included.

  0 for a row of which no token counts.
  """
  wrote = jnp.where(mask, tokens, -1)
  same = (wrote[:, None] == wrote[None]).all(axis=-1)
  return masked.row_count(same & members(ids, mask.any(axis=1)))


def members(ids: Int[Array, 'B'], counts: Bool[Array, 'B']
            ) -> Bool[Array, 'B B']:
  """True where two rows that count are of one group, also for i = j."""
  return (ids[:, None] == ids[None]) & counts[:, None] & counts[None]


def _mean_over(
    x: Float[Array, 'B'], same: Bool[Array, 'B B'], some: Bool[Array, 'B B']
) -> Float[Array, 'B']:
  """Mean of `some` of the members of each row's group, 0 if it has none."""
  pairs = jnp.broadcast_to(x[None], same.shape)
  largest = jnp.where(same, pairs, -jnp.inf).max(axis=1)
  largest = masked.keep(largest, same.any(axis=1))
  distances = masked.row_mean(pairs - largest[:, None], some)
  return masked.keep(largest + distances, some.any(axis=1))
