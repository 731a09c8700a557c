"""Decoder-only transformer: pre-norm, RoPE, grouped queries, SwiGLU.

One module for the Llama family (arXiv 2302.13971; grouped-query attention
arXiv 2305.13245; RoPE arXiv 2104.09864; SwiGLU arXiv 2002.05202). Layers are
stacked with `nn.scan`, so a block's kernel is (L, M, N): what compiles once,
what shards, and what a batched SVD wants. Kernels act as x @ W, input first.

Tokens say everything about layout: `pad_id` is never attended to, wherever it
stands, and a document begins at `bos_id`: attention and positions never cross
it, so several documents may share a row.
"""
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

MASKED = -1e30  # finite, so that a row without any key gives no NaN


class Cache(NamedTuple):
  """Keys and values of S positions; H key heads of size E."""
  keys: Float[Array, 'L B S H E']
  values: Float[Array, 'L B S H E']
  documents: Int[Array, 'B S']  # which one each column is of; -1 is padding
  index: Int[Array, '']  # columns written so far, the same for all rows


class Layout(NamedTuple):
  """Where each token stands and what it may attend to."""
  positions: Int[Array, 'B T']
  attend: Bool[Array, 'B T S']


def rotate(
    x: Float[Array, 'B T H E'], positions: Int[Array, 'B T'], base: float
) -> Float[Array, 'B T H E']:
  """Rotary embedding, halves convention (as in Llama's published weights)."""
  half = x.shape[-1] // 2
  frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = positions[:, :, None, None] * frequency[None, None, None]
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return turned.astype(x.dtype)


def attend(
    query: Float[Array, 'B T G E'],
    key: Float[Array, 'B S H E'],
    value: Float[Array, 'B S H E'],
    mask: Bool[Array, 'B T S'],
) -> Float[Array, 'B T G E']:
  """Attention of G query heads over H key heads, float32 softmax.

  On CPU plain einsums: the backward pass of `jax.nn.dot_product_attention`
  costs about three times as much there.
  """
  if jax.default_backend() != 'cpu':
    return jax.nn.dot_product_attention(query, key, value, mask=mask[:, None])
  b, t, g, e = query.shape
  h = key.shape[2]
  query = query.reshape(b, t, h, g // h, e)
  scores = jnp.einsum('bthge,bshe->bhgts', query, key) / e**0.5
  scores = jnp.where(mask[:, None, None], scores.astype(jnp.float32), MASKED)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  mixed = jnp.einsum('bhgts,bshe->bthge', weights, value)
  return mixed.reshape(b, t, g, e)


class Dense(nn.Module):
  """A kernel without bias, contracted in the compute dtype."""
  features: int
  dtype: Any
  scale: float = 1.0

  @nn.compact
  def __call__(self, x: Array) -> Array:
    init = nn.initializers.variance_scaling(self.scale, 'fan_in', 'normal')
    kernel = self.param('kernel', init, (x.shape[-1], self.features))
    return x @ kernel.astype(self.dtype)


class RMSNorm(nn.Module):
  """Root-mean-square norm in float32 (arXiv 1910.07467)."""
  epsilon: float

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    wide = x.astype(jnp.float32)
    power = jnp.mean(wide * wide, axis=-1, keepdims=True)
    normed = wide * jax.lax.rsqrt(power + self.epsilon)
    return (normed * scale[None, None]).astype(x.dtype)


class Attention(nn.Module):
  """Self-attention over the row, or over the cache's columns."""
  heads: int
  kv_heads: int
  head_size: int
  rope_base: float
  out_scale: float
  dtype: Any

  @nn.compact
  def __call__(self, x, layout, store, layer, index):
    def project(heads, name):
      flat = Dense(heads * self.head_size, self.dtype, name=name)(x)
      return flat.reshape(*x.shape[:2], heads, self.head_size)

    query = rotate(
        project(self.heads, 'query'), layout.positions, self.rope_base)
    key = rotate(
        project(self.kv_heads, 'key'), layout.positions, self.rope_base)
    value = project(self.kv_heads, 'value')
    if store is not None:
      at = (layer, 0, index, 0, 0)
      store = tuple(
          jax.lax.dynamic_update_slice(whole, new[None], at)
          for whole, new in zip(store, (key, value), strict=True))
      key, value = (
          jax.lax.dynamic_index_in_dim(whole, layer, keepdims=False)
          for whole in store)
    mixed = attend(query, key, value, layout.attend)
    flat = mixed.reshape(*x.shape[:2], -1)
    out = Dense(x.shape[-1], self.dtype, self.out_scale, name='out')(flat)
    return out, store


class MLP(nn.Module):
  """SwiGLU."""
  hidden: int
  out_scale: float
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    gate = Dense(self.hidden, self.dtype, name='gate')(x)
    up = Dense(self.hidden, self.dtype, name='up')(x)
    down = Dense(x.shape[-1], self.dtype, self.out_scale, name='down')
    return down(nn.silu(gate) * up)


class Block(nn.Module):
  """One layer; the whole cache rides in the carry and is written in place."""
  attention: Any
  mlp: Any
  epsilon: float

  @nn.compact
  def __call__(self, carry, layout, index):
    x, store, layer = carry
    normed = RMSNorm(self.epsilon, name='attention_norm')(x)
    mixed, store = Attention(**self.attention, name='attention')(
        normed, layout, store, layer, index)
    x = x + mixed
    normed = RMSNorm(self.epsilon, name='mlp_norm')(x)
    x = x + MLP(**self.mlp, name='mlp')(normed)
    return (x, store, layer + 1), None


class Model(nn.Module):
  """`__call__` gives hidden states; `head` turns them into logits."""
  vocabulary: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  hidden: int
  rope_base: float = 10_000.0
  epsilon: float = 1e-5
  pad_id: int = 0
  bos_id: int | None = 1
  dtype: Any = jnp.float32

  def setup(self):
    if self.width % self.heads or self.heads % self.kv_heads:
      raise ValueError(
          f'width {self.width} must be a multiple of heads {self.heads}, and '
          f'heads a multiple of kv_heads {self.kv_heads}')
    if self.width // self.heads % 2:
      raise ValueError(
          f'a head of size {self.width // self.heads} cannot be rotated: '
          'width / heads must be even')
    out_scale = 1 / (2 * self.layers)  # residual stream keeps its size
    self.embed = nn.Embed(
        self.vocabulary, self.width, dtype=self.dtype,
        embedding_init=nn.initializers.normal(0.02))
    scanned = nn.scan(
        Block, variable_axes={'params': 0}, split_rngs={'params': True},
        in_axes=nn.broadcast, length=self.layers)
    self.stack = scanned(
        name='layers', epsilon=self.epsilon,
        attention=dict(
            heads=self.heads, kv_heads=self.kv_heads,
            head_size=self.width // self.heads, rope_base=self.rope_base,
            out_scale=out_scale, dtype=self.dtype),
        mlp=dict(hidden=self.hidden, out_scale=out_scale, dtype=self.dtype))
    self.final_norm = RMSNorm(self.epsilon)
    self.unembed = Dense(self.vocabulary, self.dtype, name='head')

  def __call__(
      self, tokens: Int[Array, 'B T'], cache: Cache | None = None
  ) -> tuple[Float[Array, 'B T D'], Cache | None]:
    """Final hidden states, and the cache with these tokens written."""
    if self.is_initializing():
      self.head(jnp.zeros((1, 1, self.width), self.dtype))
    x = self.embed(tokens)
    if cache is None:
      layout, index = lay_out(tokens, self.pad_id, self.bos_id), None
      store = None
    else:
      layout, documents = extend(
          cache.documents, cache.index, tokens, self.pad_id, self.bos_id)
      store, index = (cache.keys, cache.values), cache.index
    carry = (x, store, jnp.zeros((), jnp.int32))
    (x, store, _), _ = self.stack(carry, layout, index)
    if cache is not None:
      cache = Cache(*store, documents, cache.index + tokens.shape[1])
    return self.final_norm(x), cache

  def head(self, hidden: Float[Array, '*B D']) -> Float[Array, '*B V']:
    """Logits, float32."""
    return self.unembed(hidden).astype(jnp.float32)

  def empty_cache(self, rows: int, columns: int) -> Cache:
    """A cache of zeros for `rows` rows and `columns` positions."""
    shape = (self.layers, rows, columns, self.kv_heads,
             self.width // self.heads)
    zeros = jnp.zeros(shape, self.dtype)
    documents = jnp.full((rows, columns), -1, jnp.int32)
    return Cache(zeros, zeros, documents, jnp.zeros((), jnp.int32))


def lay_out(
    tokens: Int[Array, 'B T'], pad_id: int, bos_id: int | None
) -> Layout:
  """Positions within each document, and causal attention inside it."""
  empty = jnp.full(tokens.shape, -1, jnp.int32)
  layout, _ = extend(empty, jnp.zeros((), jnp.int32), tokens, pad_id, bos_id)
  return layout


def extend(
    documents: Int[Array, 'B S'], index: Int[Array, ''],
    tokens: Int[Array, 'B T'], pad_id: int, bos_id: int | None
) -> tuple[Layout, Int[Array, 'B S']]:
  """Layout of tokens that are written from column `index` on."""
  starts = (
      jnp.zeros(tokens.shape, bool) if bos_id is None else tokens == bos_id)
  current = jnp.maximum(jnp.max(documents, axis=1), 0)
  own = current[:, None] + jnp.cumsum(starts, axis=1)
  documents = jax.lax.dynamic_update_slice(
      documents, jnp.where(tokens == pad_id, -1, own), (0, index))
  at = index + jnp.arange(tokens.shape[1])
  causal = jnp.arange(documents.shape[1])[None] <= at[:, None]
  mask = causal[None] & (own[:, :, None] == documents[:, None])
  return Layout(jnp.maximum(jnp.sum(mask, axis=2) - 1, 0), mask), documents


PRESETS: dict[str, dict[str, int]] = {
    'tiny': dict(width=32, layers=2, heads=4, kv_heads=2, hidden=64),
    'nano': dict(width=128, layers=4, heads=4, kv_heads=2, hidden=448),
    'small': dict(width=384, layers=6, heads=6, kv_heads=3, hidden=1344),
}
DTYPES = ('float32', 'bfloat16')  # of the computation; parameters: float32


def make(
    *, preset: str, vocabulary: int, dtype: str = 'float32', pad: int = 0,
    bos: int | None = 1,
) -> Model:
  """A model of a named size; ValueError lists the known ones.

  `pad` and `bos` are the tokenizer's: the token that is never attended to and
  the one that begins a document.
  """
  if preset not in PRESETS:
    raise ValueError(f'no preset {preset!r}; known: {", ".join(PRESETS)}')
  if dtype not in DTYPES:
    raise ValueError(f'no dtype {dtype!r}; known: {", ".join(DTYPES)}')
  return Model(
      vocabulary=vocabulary, dtype=jnp.dtype(dtype), pad_id=pad, bos_id=bos,
      **PRESETS[preset])


@functools.partial(jax.jit, static_argnums=0)
def initialise(model: Model, key: Array) -> PyTree:
  """Fresh float32 parameters."""
  return model.init(key, jnp.ones((1, 2), jnp.int32))['params']
