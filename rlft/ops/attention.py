"""Attention over rows that tokens lay out: padding, documents, the past.

Axis letters beside those of `types`: S columns of a cache, G query heads, H key
heads, E size of a head.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlft.ops import sharding

MASKED = -1e30  # finite, so that a row without any key gives no NaN


class Layout(NamedTuple):
  """Where each token stands and what it may attend to."""
  positions: Int[Array, 'B T']
  attend: Bool[Array, 'B T S']

  def mix(
      self, query: Float[Array, 'B T G E'], key: Float[Array, 'B H E S'],
      value: Float[Array, 'B H S E'],
  ) -> Float[Array, 'B T G E']:
    return attend(query, key, value, self.attend)


def kernel() -> str:
  """Which implementation `attend` takes on this backend."""
  return 'einsum' if sharding.platform() == 'cpu' else 'xla'


def attend(
    query: Float[Array, 'B T G E'],
    key: Float[Array, 'B H E S'],
    value: Float[Array, 'B H S E'],
    mask: Bool[Array, 'B T S'],
) -> Float[Array, 'B T G E']:
  """Attention of G query heads over H key heads, float32 softmax.

  Keys and values have their heads first, and keys their columns last: so a
  cache is read as it lies, by vectors of numbers that lie side by side.

  On CPU plain einsums: the backward pass of `jax.nn.dot_product_attention`
  costs about three times as much there.
  """
  if kernel() == 'xla':
    return jax.nn.dot_product_attention(
        query, key.transpose(0, 3, 1, 2), value.swapaxes(1, 2),
        mask=mask[:, None])
  b, t, g, e = query.shape
  h, columns = value.shape[1:3]
  # Products of plain matrices, heads first: nothing is laid out anew but the
  # query and the result, which are small where there is a cache.
  rows = (query / e**0.5).reshape(b, t, h, g // h, e).transpose(0, 2, 3, 1, 4)
  scores = jnp.matmul(rows.reshape(b, h, -1, e), key)
  scores = scores.reshape(b, h, g // h, t, columns).astype(jnp.float32)
  # Added, so that the backward pass has nothing to select.
  scores = scores + jnp.where(mask, 0, MASKED)[:, None, None]
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  mixed = jnp.matmul(weights.reshape(b, h, -1, columns), value)
  mixed = mixed.reshape(b, h, g // h, t, e).transpose(0, 3, 1, 2, 4)
  return mixed.reshape(b, t, g, e)


def lay_out(
    tokens: Int[Array, 'B T'], pad_id: int, bos_id: int | None
) -> Layout:
  """Positions within each document, and causal attention inside it.

  A document begins at `bos_id`; where that is None, after padding.
  """
  empty = jnp.full(tokens.shape, -1, jnp.int32)
  layout, _ = extend(empty, jnp.zeros((), jnp.int32), tokens, pad_id, bos_id)
  return layout


def extend(
    documents: Int[Array, 'B S'], index: Int[Array, ''],
    tokens: Int[Array, 'B T'], pad_id: int, bos_id: int | None
) -> tuple[Layout, Int[Array, 'B S']]:
  """Layout of tokens that are written from column `index` on.

  One token alone may be written anywhere: the columns are a ring, of which each
  row says by its documents what is its past.
  """
  pads = tokens == pad_id
  if bos_id is None:
    # of an empty cache the last column, which is padding, too
    before = jax.lax.dynamic_index_in_dim(
        documents, (index - 1) % documents.shape[1], axis=1)
    starts = ~pads & jnp.concatenate([before < 0, pads[:, :-1]], axis=1)
  else:
    starts = tokens == bos_id
  current = jnp.maximum(jnp.max(documents, axis=1), 0)
  own = current[:, None] + jnp.cumsum(starts, axis=1)
  documents = jax.lax.dynamic_update_slice(
      documents, jnp.where(pads, -1, own), (0, index))
  mask = own[:, :, None] == documents[:, None]
  if tokens.shape[1] > 1:
    at = index + jnp.arange(tokens.shape[1])
    mask &= (jnp.arange(documents.shape[1])[None] <= at[:, None])[None]
  return Layout(jnp.maximum(jnp.sum(mask, axis=2) - 1, 0), mask), documents
