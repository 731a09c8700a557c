"""Tiny models of every family and odd feature: their config.json, no weights.

`FIXTURES` are those whose expected numbers are stored; `draw` makes others at
random. Sizes are small but for what they are about: rope turns by large angles,
rows are longer than the original context of Llama 3's scaling, and some of its
frequencies lie below, in and above its transition.
"""
import math
from typing import Any, NamedTuple

import numpy as np

FAMILIES = ('llama', 'qwen2', 'qwen3', 'mllama')
CLASSES = {
    'llama': 'LlamaForCausalLM', 'qwen2': 'Qwen2ForCausalLM',
    'qwen3': 'Qwen3ForCausalLM', 'mllama': 'MllamaForConditionalGeneration'}
VISION = dict(
    model_type='mllama_vision_model', hidden_size=8, attention_heads=1,
    num_hidden_layers=1, num_global_layers=1, intermediate_size=8,
    image_size=8, patch_size=4, vision_output_dim=16,
    intermediate_layers_indices=[0], max_num_tiles=1,
    supported_aspect_ratios=[[1, 1]])


class Case(NamedTuple):
  """A model to be made, and how it is stored."""
  family: str
  config: dict[str, Any]  # of the language model, as transformers 5 spells it
  spelling: str = 'rope_parameters'  # or 'rope_scaling', as transformers 4
  dtype: str = 'float32'  # that weights are stored in
  shards: int = 1
  twin: bool = False  # a tied head is stored although it is the embedding
  old_names: bool = True  # Mllama: language_model.model., as on the hub
  seed: int = 0

  @property
  def length(self) -> int:
    """Of rows: beyond the context that the rope is stretched from."""
    return self.rope.get('original_max_position_embeddings', 32) + 16

  @property
  def rope(self) -> dict[str, Any]:
    return self.config['rope_parameters']


def llama3(factor: float, base: float = 500_000.0, context: int = 64, *,
           low: float = 1.0, high: float = 4.0) -> dict[str, Any]:
  return dict(
      rope_type='llama3', rope_theta=base, factor=factor, low_freq_factor=low,
      high_freq_factor=high, original_max_position_embeddings=context)


def linear(factor: float, base: float = 10_000.0) -> dict[str, Any]:
  return dict(rope_type='linear', rope_theta=base, factor=factor)


def plain(base: float) -> dict[str, Any]:
  return dict(rope_type='default', rope_theta=base)


def config(
    heads: int, kv_heads: int, size: int, rope: dict[str, Any], *,
    width: int | None = None, layers: int = 2, hidden: int = 40,
    epsilon: float = 1e-2, tied: bool = False,
    cross: tuple[int, ...] | None = None,
) -> dict[str, Any]:
  """Fields of a config.json; with a `width` it says the size of a head."""
  made = dict(
      vocab_size=64, hidden_size=width or heads * size,
      intermediate_size=hidden, num_hidden_layers=layers,
      num_attention_heads=heads, num_key_value_heads=kv_heads,
      rms_norm_eps=epsilon, max_position_embeddings=512,
      rope_parameters=rope, tie_word_embeddings=tied,
      bos_token_id=1, eos_token_id=2, pad_token_id=63)
  if width:
    made['head_dim'] = size
  if cross is not None:
    made['cross_attention_layers'] = list(cross)
  return made


FIXTURES = {
    'llama3_factor_8': Case(
        'llama', config(4, 2, 16, llama3(8.0)), spelling='rope_scaling'),
    'llama3_factor_32_tied': Case(
        'llama', config(8, 2, 16, llama3(32.0), width=32, tied=True,
                        epsilon=1e-5), dtype='bfloat16'),
    'llama_linear_sharded': Case(
        'llama', config(4, 4, 8, linear(4.0), layers=3),
        spelling='rope_scaling', shards=3),
    'llama_tied_twin': Case(
        'llama', config(4, 1, 8, plain(10_000.0), tied=True, epsilon=1e-3),
        twin=True, dtype='float16'),
    'qwen2': Case(
        'qwen2', config(4, 1, 8, plain(1_000_000.0)), dtype='bfloat16',
        shards=2, spelling='rope_scaling'),
    'qwen2_tied_7_to_1': Case(
        'qwen2', config(14, 2, 4, plain(1_000_000.0), tied=True,
                        epsilon=1e-6)),
    'qwen3': Case(
        'qwen3', config(4, 4, 8, plain(1_000_000.0), width=32),
        spelling='rope_scaling'),
    'qwen3_tied_wide_heads': Case(
        'qwen3', config(4, 2, 16, plain(1_000_000.0), width=32, tied=True,
                        epsilon=1e-6)),
    'mllama_first_layer_crosses': Case(
        'mllama', config(2, 1, 16, llama3(8.0), layers=6, cross=(0, 3, 4)),
        spelling='rope_scaling', shards=2, dtype='bfloat16'),
    'mllama': Case(
        'mllama', config(4, 2, 8, plain(500.0), layers=5, cross=(1, 4),
                         epsilon=1e-5), old_names=False),
}


def draw(rng: np.random.Generator, family: str) -> Case:
  """A model of a family at random."""
  pick = lambda *choices: choices[rng.integers(len(choices))]
  kv_heads, group = pick(1, 2, 3), pick(1, 2, 4, 7)
  size = pick(4, 8, 16)
  heads = kv_heads * group
  width = dict(llama=pick(None, None, 6 * heads),  # a multiple in any case
               qwen3=pick(size * heads, 24, 40))
  cross = None
  layers = pick(1, 2, 3)
  if family == 'mllama':
    layers = pick(2, 4, 6)
    cross = tuple(sorted(rng.choice(
        layers, rng.integers(layers), replace=False).tolist()))
  return Case(
      family,
      config(heads, kv_heads, size, _rope(rng, pick, size),
             width=width.get(family), layers=layers, cross=cross,
             hidden=pick(24, 56), epsilon=pick(1e-6, 1e-5, 1e-3, 1e-2),
             tied=family != 'mllama' and pick(True, False)),
      spelling=pick('rope_parameters', 'rope_scaling'),
      dtype=pick('float32', 'bfloat16', 'float16'), shards=pick(1, 1, 3),
      old_names=pick(True, False), seed=int(rng.integers(2**31)))


def _rope(rng, pick, size: int) -> dict[str, Any]:
  kind = pick('default', 'linear', 'llama3', 'llama3') if size > 4 else (
      pick('default', 'linear'))  # two frequencies: none is in between
  base = float(np.exp(rng.uniform(math.log(300), math.log(1e6))))
  if kind == 'default':
    return plain(base)
  if kind == 'linear':
    return linear(pick(2.0, 8.0), base)
  context, low = pick(48, 96), pick(1.0, 2.0)
  high = pick(4.0, 6.0)
  while not _transition(base, size, context, low, high):
    base = float(np.exp(rng.uniform(math.log(10), math.log(1e6))))
  return llama3(pick(8.0, 32.0), base, context, low=low, high=high)


def _transition(base, size, context, low, high) -> bool:
  """Whether a frequency is between those that are kept and those slowed."""
  waves = context * base**(-np.arange(0, size, 2) / size) / (2 * math.pi)
  return bool(((waves > low * 1.1) & (waves < high / 1.1)).any())
