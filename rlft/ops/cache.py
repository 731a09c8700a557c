"""Keys and values that a decoder keeps of the tokens before."""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlft.ops import partwise, sharding


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

  def rolled(self, columns: Int[Array, ''] | int) -> 'Cache':
    """Every column so many further on, the last ones first."""
    roll = lambda axis: lambda x: jnp.roll(x, columns, axis)
    return self._replace(
        keys=jax.tree.map(roll(-1), self.keys),
        values=jax.tree.map(roll(-2), self.values),
        documents=roll(-1)(self.documents))

  def taken(self, rows: Int[Array, 'C'], parts: int) -> 'Cache':
    """These rows; their numbers are of the part that each is in."""
    def take(x):
      return sharding.named(partwise.take(x, rows, parts, axis=x.ndim - 4),
                            'rows', 'heads', None, None)

    return self._replace(
        keys=jax.tree.map(take, self.keys),
        values=jax.tree.map(take, self.values),
        documents=partwise.take(self.documents, rows, parts))

  def put(self, rows: Int[Array, 'C'], new: 'Cache', parts: int) -> 'Cache':
    """With new ones instead of these; a number beyond the part is no row."""
    def put(x, y):
      return partwise.put(x, rows, y, parts, axis=x.ndim - 4)

    return self._replace(
        keys=jax.tree.map(put, self.keys, new.keys),
        values=jax.tree.map(put, self.values, new.values),
        documents=partwise.put(self.documents, rows, new.documents, parts))

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
