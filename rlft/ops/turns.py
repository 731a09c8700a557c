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
  def step(highest, own):
    return jnp.maximum(highest, own), own > highest

  none = jnp.full_like(ids[:, 0], -1)
  return jax.lax.scan(step, none, ids.T)[1].T


def total(x: Float[Array, 'B T'], ids: Int[Array, 'B T']
          ) -> Float[Array, 'B T']:
  """Sum over the tokens of each turn, at its first token."""
  def step(summed, now):
    own, start = now
    summed = summed + own  # from the right: nothing is left after a start
    return jnp.where(start, 0., summed), jnp.where(start, summed, 0.)

  own = masked.keep(x, ids >= 0)
  _, sums = jax.lax.scan(step, jnp.zeros_like(own[:, 0]), (
      own.T, starts(ids).T), reverse=True)
  return sums.T


def spread(y: Float[Array, 'B T'], ids: Int[Array, 'B T']
           ) -> Float[Array, 'B T']:
  """To every token of a turn what stands at its first; 0 off the turns."""
  def step(latest, now):
    own, start = now
    latest = jnp.where(start, own, latest)
    return latest, latest

  _, found = jax.lax.scan(
      step, jnp.zeros_like(y[:, 0]), (y.T, starts(ids).T))
  return masked.keep(found.T, ids >= 0)
