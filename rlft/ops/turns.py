"""Sums over the turns of a row.

What is one number of a turn stands at the turn's first token, 0 elsewhere: so
it stays in an array of shape (B, T), beside the value of the state in which the
turn begins, and nothing need know how many turns a row can have. `starts` is
then the mask for `masked` and for `advantages.gae`.

`ids` has the turn of every token that counts, -1 elsewhere (`ids_of`). Turns
stand in a row in rising order; tokens that do not count may lie between the
turns or within one. Sums are added in a fixed order, as a scatter on an
accelerator would not.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlft.ops import masked


def ids_of(turn_ids: Int[Array, 'B T'], mask: Bool[Array, 'B T']
           ) -> Int[Array, 'B T']:
  """The turn of each token that counts, -1 elsewhere."""
  return jnp.where(mask, turn_ids, -1)


def starts(ids: Int[Array, 'B T']) -> Bool[Array, 'B T']:
  """True at the first token of each turn."""
  highest = jax.lax.cummax(ids, axis=1)
  before = jnp.pad(highest[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  return ids > before


def total(x: Float[Array, 'B T'], ids: Int[Array, 'B T']
          ) -> Float[Array, 'B T']:
  """Sum over the tokens of each turn, at its first token."""
  def join(right, left):
    (turn, of_turn), (own, of_own) = right, left
    summed = jnp.where((own == turn) | (own < 0), of_turn + of_own, of_own)
    return jnp.where(own < 0, turn, own), summed

  _, sums = jax.lax.associative_scan(
      join, (ids, masked.keep(x, ids >= 0)), reverse=True, axis=1)
  return masked.keep(sums, starts(ids))


def spread(y: Float[Array, 'B T'], ids: Int[Array, 'B T']
           ) -> Float[Array, 'B T']:
  """To every token of a turn what stands at its first; 0 off the turns."""
  places = jnp.where(starts(ids), jnp.arange(ids.shape[1])[None], 0)
  at = jax.lax.cummax(places, axis=1)
  return masked.keep(jnp.take_along_axis(y, at, axis=1), ids >= 0)
