"""Rows that are cut into equal parts, each worked on by itself.

The devices of a mesh have whole parts, so nothing is sent between them. A row's
number counts from the beginning of its part.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped


def numbers(rows: int, parts: int) -> Int[Array, 'B']:
  """Of all rows."""
  return jnp.tile(jnp.arange(rows // parts), parts)


def take(
    x: Shaped[Array, '...'], rows: Int[Array, 'C'], parts: int, axis: int = 0,
) -> Shaped[Array, '...']:
  """The rows of these numbers, as many of each part; of none, the nearest."""
  def one(x, rows):
    return jnp.take(x, rows, axis=axis, mode='clip')

  if parts == 1:
    return one(x, rows)
  found = jax.vmap(one, (axis, 0), axis)(
      _cut(x, parts, axis), _cut(rows, parts, 0))
  return _whole(found, axis)


def put(
    x: Shaped[Array, '...'], rows: Int[Array, 'C'], new: Shaped[Array, '...'],
    parts: int, axis: int = 0,
) -> Shaped[Array, '...']:
  """With new rows instead of these; a number beyond its part's is no row.

  No number may stand twice in a part.
  """
  def one(x, rows, new):
    at = (slice(None),) * axis + (rows,)
    return x.at[at].set(new, mode='drop', unique_indices=True)

  if parts == 1:
    return one(x, rows, new)
  made = jax.vmap(one, (axis, 0, axis), axis)(
      _cut(x, parts, axis), _cut(rows, parts, 0), _cut(new, parts, axis))
  return _whole(made, axis)


def _cut(x, parts, axis):
  return x.reshape(*x.shape[:axis], parts, -1, *x.shape[axis + 1:])


def _whole(x, axis):
  return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2:])
