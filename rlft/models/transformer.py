"""Decoder-only transformer: pre-norm, RoPE, grouped queries, SwiGLU.

One module for Llama (arXiv 2302.13971, 2407.21783), Qwen2 (arXiv 2407.10671)
and Qwen3 (arXiv 2505.09388), which differ in its fields; grouped-query
attention arXiv 2305.13245, SwiGLU arXiv 2002.05202. Layers are stacked with
`nn.scan`, so a block's kernel is (L, M, N): what compiles once, what shards,
and what a batched SVD wants. Kernels act as x @ W, input first.

Tokens say everything about layout: `pad_id` is never attended to, wherever it
stands, and a document begins at `bos_id`, or after padding where that is None:
attention and positions never cross it, so several documents may share a row.
"""
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from rlft import presets
from rlft.ops import attention, modules, rope, sharding
from rlft.ops.branches import Branches
from rlft.ops.cache import Cache
from rlft.ops.rope import Rope

SPELLED_OUT = 8  # layers at most that a program spells out
REMAT = {  # what the backward pass finds kept; it makes the rest again
    'none': None,  # everything
    'dots': jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
    'block': jax.checkpoint_policies.nothing_saveable}  # what a block is given


class Attention(nn.Module):
  """Self-attention over the row, or over the cache's columns."""
  heads: int
  kv_heads: int
  head_size: int
  rope: Rope
  bias: bool
  norm: bool
  epsilon: float
  out_scale: float
  dtype: Any

  @nn.compact
  def __call__(self, x, layout, store, layer, index):
    def project(heads, name):
      flat = modules.Dense(
          heads * self.head_size, self.dtype, bias=self.bias, name=name)(x)
      return sharding.named(flat.reshape(
          *x.shape[:2], heads, self.head_size), 'rows', None, 'heads', None)

    def turned(heads, name):
      found = project(heads, name)
      if self.norm:  # over each head, before it is rotated
        found = modules.RMSNorm(self.epsilon, name=f'{name}_norm')(found)
      return rope.rotate(found, layout.positions, self.rope)

    query = turned(self.heads, 'query')
    key = turned(self.kv_heads, 'key')
    value = project(self.kv_heads, 'value')
    key, value = key.transpose(0, 2, 3, 1), value.swapaxes(1, 2)
    if store is not None:
      put = jax.lax.dynamic_update_slice
      at = (0, 0, 0, index), (0, 0, index, 0)
      if layer is None:  # this layer's own
        store = key, value = tuple(map(put, store, (key, value), at))
      else:
        store = tuple(
            put(whole, new[None], (layer, *where))
            for whole, new, where in zip(
                store, (key, value), at, strict=True))
        key, value = (
            jax.lax.dynamic_index_in_dim(whole, layer, keepdims=False)
            for whole in store)
    flat = layout.mix(query, key, value).reshape(*x.shape[:2], -1)
    out = modules.Dense(
        x.shape[-1], self.dtype, self.out_scale, name='out')(flat)
    return out, store


class MLP(nn.Module):
  """SwiGLU."""
  hidden: int
  out_scale: float
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    gate = modules.Dense(self.hidden, self.dtype, name='gate')(x)
    up = modules.Dense(self.hidden, self.dtype, name='up')(x)
    down = modules.Dense(x.shape[-1], self.dtype, self.out_scale, name='down')
    return down(sharding.named(nn.silu(gate) * up, 'rows', None, 'hidden'))


class Block(nn.Module):
  """One layer; the whole cache rides in the carry and is written in place."""
  attention: Any
  mlp: Any
  epsilon: float

  @nn.compact
  def __call__(self, carry, layout, index):
    x, store, layer = carry
    normed = modules.RMSNorm(self.epsilon, name='attention_norm')(x)
    mixed, store = Attention(**self.attention, name='attention')(
        normed, layout, store, layer, index)
    x = sharding.rows(x + mixed)
    normed = modules.RMSNorm(self.epsilon, name='mlp_norm')(x)
    x = sharding.rows(x + MLP(**self.mlp, name='mlp')(normed))
    return (x, store, None if layer is None else layer + 1), None


class Model(nn.Module):
  """`__call__` gives hidden states; `head` turns them into logits."""
  vocabulary: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  hidden: int
  head_size: int | None = None  # width / heads
  rope: Rope = Rope()
  qkv_bias: bool = False  # Qwen2
  qk_norm: bool = False  # Qwen3
  tied: bool = False  # the embedding is the head
  extra_embeddings: int = 0  # rows that no logit belongs to: image tokens
  epsilon: float = 1e-5
  pad_id: int = 0
  bos_id: int | None = 1
  dtype: Any = jnp.float32
  remat: str = 'none'  # of REMAT
  spelled_out: bool = False  # a block for each layer, instead of a loop

  def unrolled(
      self, variables: dict[str, PyTree],
  ) -> tuple['Model', dict[str, PyTree]]:
    """The same model and variables, as they compute fastest here.

    A loop over layers copies their weights for every token that is decoded on
    CPUs, and in training it clears what it will keep for the backward pass;
    spelled out there is neither, and a program of few layers stays small.
    """
    if sharding.platform() != 'cpu' or self.layers > SPELLED_OUT:
      return self, variables

    def spelled(tree):
      layers = {
          f'layers_{i}': jax.tree.map(lambda x, i=i: x[i], tree['layers'])
          for i in range(self.layers)}
      return {k: v for k, v in tree.items() if k != 'layers'} | layers

    return self.clone(spelled_out=True), {
        k: spelled(tree) for k, tree in variables.items()}

  def decoding(self, variables: dict) -> tuple['Model', dict]:
    """The same, cast and gathered once: each token reads all of them."""
    model, variables = self.unrolled(variables)
    return model, sharding.gathered(modules.cast(variables, self.dtype))

  @property
  def size(self) -> int:
    """Of one head."""
    return self.head_size or self.width // self.heads

  def setup(self):
    if self.heads % self.kv_heads or (
        self.head_size is None and self.width % self.heads):
      raise ValueError(
          f'width {self.width} must be a multiple of heads {self.heads}, and '
          f'heads a multiple of kv_heads {self.kv_heads}')
    if self.size % 2:
      raise ValueError(
          f'a head of size {self.size} cannot be rotated: '
          'width / heads must be even')
    out_scale = 1 / (2 * self.layers)  # residual stream keeps its size
    self.embed = nn.Embed(
        self.vocabulary + self.extra_embeddings, self.width, dtype=self.dtype,
        embedding_init=nn.initializers.normal(0.02))
    block = dict(
        epsilon=self.epsilon,
        attention=dict(
            heads=self.heads, kv_heads=self.kv_heads, head_size=self.size,
            rope=self.rope, bias=self.qkv_bias, norm=self.qk_norm,
            epsilon=self.epsilon, out_scale=out_scale, dtype=self.dtype),
        mlp=dict(hidden=self.hidden, out_scale=out_scale, dtype=self.dtype))
    made = Block if self.remat == 'none' else nn.remat(
        Block, policy=REMAT[self.remat], prevent_cse=self.spelled_out)
    if self.spelled_out:
      self.stack = [made(**block, name=f'layers_{i}')
                    for i in range(self.layers)]
    else:
      self.stack = nn.scan(
          made, variable_axes={'params': 0, 'lora': 0},
          split_rngs={'params': True}, in_axes=nn.broadcast,
          length=self.layers)(**block, name='layers')
    self.final_norm = modules.RMSNorm(self.epsilon)
    if not self.tied:
      self.unembed = modules.Dense(
          self.vocabulary, self.dtype, result=jnp.float32, name='head')

  def __call__(
      self, tokens: Int[Array, 'B T'], cache: Cache | None = None,
      layout: attention.Layout | Branches | None = None,
  ) -> tuple[Float[Array, 'B T D'], Cache | None]:
    """Hidden states, and the cache written; `layout` if tokens say none."""
    if self.is_initializing():
      self.head(jnp.zeros((1, 1, self.width), self.dtype))
    x = self.look_up(tokens)
    if cache is None:
      layout = layout or attention.lay_out(tokens, self.pad_id, self.bos_id)
      store, index = None, None
    else:
      layout, documents = attention.extend(
          cache.documents, cache.index, tokens, self.pad_id, self.bos_id)
      store, index = (cache.keys, cache.values), cache.index
    if self.spelled_out:
      pairs = []
      for i, block in enumerate(self.stack):
        own = None if store is None else (store[0][i], store[1][i])
        (x, own, _), _ = block((x, own, None), layout, index)
        pairs.append(own)
      store = None if store is None else tuple(zip(*pairs, strict=True))
    else:
      carry = (x, store, jnp.zeros((), jnp.int32))
      (x, store, _), _ = self.stack(carry, layout, index)
    if cache is not None:
      cache = Cache(*store, documents, cache.index + tokens.shape[1])
    return self.final_norm(x), cache

  def look_up(self, tokens: Int[Array, 'B T']) -> Float[Array, 'B T D']:
    """Embeddings: each device finds its part of their width for all rows.

    So what is sent is as large as they are, and not as the table.
    """
    table = sharding.named(
        self.embed.embedding.astype(self.dtype), None, 'width')
    found = jnp.take(table, sharding.named(tokens, 'groups', None), axis=0)
    return sharding.rows(sharding.named(found, 'groups', None, 'width'))

  def head(self, hidden: Float[Array, '*B D']) -> Float[Array, '*B V']:
    """Logits, added up in float32."""
    if not self.tied:
      return self.unembed(hidden)
    kernel = self.embed.embedding[:self.vocabulary].T.astype(self.dtype)
    return jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)

  def empty_cache(self, rows: int, columns: int) -> Cache:
    """A cache of zeros for `rows` rows and `columns` positions."""
    return Cache.empty(
        rows, columns, layers=self.layers, heads=self.kv_heads, size=self.size,
        dtype=self.dtype, apart=self.spelled_out)


DTYPES = ('float32', 'bfloat16')  # of the computation; parameters: float32


def make(
    *, vocabulary: int, preset: str = '', shape: Mapping[str, Any] = {},
    dtype: str = 'float32', pad: int = 0, bos: int | None = 1,
    remat: str = 'none',
) -> Model:
  """A model of a named size, or of a shape: the fields of `Model`.

  A shape may have more rows of vocabulary than the tokenizer has words. `pad`
  and `bos` are the tokenizer's: the token that is never attended to and the one
  that begins a document. ValueError lists what is known.
  """
  if bool(preset) == bool(shape):
    raise ValueError(
        'a model has either a preset or a shape: give one of them (preset: '
        f'{", ".join(presets.SHAPES)})')
  if dtype not in DTYPES:
    raise ValueError(f'no dtype {dtype!r}; known: {", ".join(DTYPES)}')
  if remat not in REMAT:
    raise ValueError(f'no remat {remat!r}; known: {", ".join(REMAT)}')
  fields = {'vocabulary': vocabulary, **(shape or presets.shape(preset))}
  if fields['vocabulary'] < vocabulary:
    raise ValueError(
        f'the tokenizer has {vocabulary} tokens, the model '
        f'{fields["vocabulary"]}: set config.tokenizer to its own')
  known = {f for f in Model.__dataclass_fields__
           if f not in ('parent', 'name', 'dtype', 'pad_id', 'bos_id',
                        'remat', 'spelled_out')}
  unknown = sorted(set(fields) - known)
  if unknown:
    raise ValueError(f'no model.shape.{unknown[0]}; known: '
                     f'{", ".join(sorted(known))}')
  fields['rope'] = Rope(**fields.get('rope', {}))
  return Model(dtype=jnp.dtype(dtype), pad_id=pad, bos_id=bos, remat=remat,
               **fields)


@functools.partial(jax.jit, static_argnums=0)
def initialise(model: Model, key: Array) -> PyTree:
  """Fresh float32 parameters."""
  return sharding.parameters(
      model.init(key, jnp.ones((1, 2), jnp.int32))['params'])
