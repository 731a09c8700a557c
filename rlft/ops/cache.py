"""Keys and values that a decoder keeps of the tokens before."""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlft.ops import sharding


class Cache(NamedTuple):
  """Keys and values of S positions; H key heads of size E.

  Arrays stacked over layers, or one array for each layer (`apart`).
  """
  keys: Float[Array, 'L B H E S'] | tuple[Float[Array, 'B H E S'], ...]
  values: Float[Array, 'L B H S E'] | tuple[Float[Array, 'B H S E'], ...]
  documents: Int[Array, 'B S']  # which one each column is of; -1 is padding
  index: Int[Array, '']  # columns written so far, the same for all rows

  def grown(self, columns: int) -> 'Cache':
    """With room for so many more columns."""
    def pad(x, axis, fill=0):
      wide = [(0, 0)] * x.ndim
      wide[axis] = (0, columns)
      return jnp.pad(x, wide, constant_values=fill)

    return self._replace(
        keys=jax.tree.map(lambda x: pad(x, -1), self.keys),
        values=jax.tree.map(lambda x: pad(x, -2), self.values),
        documents=pad(self.documents, -1, -1))

  @classmethod
  def empty(
      cls, rows: int, columns: int, *, layers: int, heads: int, size: int,
      dtype: Any, apart: bool = False,
  ) -> 'Cache':
    """Zeros for `rows` rows of `columns` positions; `apart`: layer by layer."""
    def stacked(*shape):
      lead = () if apart else (layers,)
      zeros = sharding.named(
          jnp.zeros((*lead, *shape), dtype), 'rows', 'heads', None, None)
      return (zeros,) * layers if apart else zeros

    return cls(
        stacked(rows, heads, size, columns),
        stacked(rows, heads, columns, size),
        jnp.full((rows, columns), -1, jnp.int32), jnp.zeros((), jnp.int32))
