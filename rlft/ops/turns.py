"""Sums over the turns of a row, and back to their tokens.

`ids` has the turn of every token that counts, from 0, and -1 elsewhere; see
`ids_of`. Arrays of shape (B, K) have one column per turn, 0 where a row has no
such turn. `turns` is K: static, and at least the number of turns of any row,
or the last ones are not seen. A turn has a token, so T is always enough.

No (B, T, K) array is made under jit: comparison, choice and sum are one loop.
It adds in a fixed order, which a scatter on an accelerator does not.
"""
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlft.ops import masked


def ids_of(turn_ids: Int[Array, 'B T'], mask: Bool[Array, 'B T']
           ) -> Int[Array, 'B T']:
  """The turn of each token that counts, -1 elsewhere."""
  return jnp.where(mask, turn_ids, -1)


def present(ids: Int[Array, 'B T'], *, turns: int) -> Bool[Array, 'B K']:
  """Which turns a row has: those with a token that counts."""
  return _same(ids, turns).any(1)


def total(x: Float[Array, 'B T'], ids: Int[Array, 'B T'], *, turns: int
          ) -> Float[Array, 'B K']:
  """Sum over the tokens of each turn."""
  return jnp.where(_same(ids, turns), x[:, :, None], 0.).sum(1)


def first(x: Float[Array, 'B T'], ids: Int[Array, 'B T'], *, turns: int
          ) -> Float[Array, 'B K']:
  """What stands at the first token of each turn."""
  at = jnp.argmax(_same(ids, turns), axis=1)
  return masked.keep(
      jnp.take_along_axis(x, at, axis=1), present(ids, turns=turns))


def spread(y: Float[Array, 'B K'], ids: Int[Array, 'B T']
           ) -> Float[Array, 'B T']:
  """Each token gets what its turn has; 0 where no turn is."""
  own = jnp.take_along_axis(y, jnp.maximum(ids, 0), axis=1)
  return masked.keep(own, ids >= 0)


def _same(ids: Int[Array, 'B T'], turns: int) -> Bool[Array, 'B T K']:
  return ids[:, :, None] == jnp.arange(turns)[None, None]
