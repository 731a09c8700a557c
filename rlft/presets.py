"""Sizes of known models by name, as fields of `models.transformer.Model`.

tiny, nano and small are the library's own; they take the tokenizer's
vocabulary. The others are what the models' published config.json say; a
checkpoint that is read brings its own, and these serve to plan a run without
it.
"""
from typing import Any

LLAMA_3 = dict(base=500_000.0, scaling='llama3', low_frequency=1.0,
               high_frequency=4.0, context=8192)
LLAMA_31 = dict(vocabulary=128_256, epsilon=1e-5,
                rope=dict(LLAMA_3, factor=8.0))
LLAMA_32 = dict(vocabulary=128_256, epsilon=1e-5, tied=True,
                rope=dict(LLAMA_3, factor=32.0))
QWEN_25 = dict(qkv_bias=True, epsilon=1e-6, rope=dict(base=1_000_000.0))
QWEN_3 = dict(vocabulary=151_936, qk_norm=True, head_size=128, epsilon=1e-6,
              rope=dict(base=1_000_000.0))


def _size(width, layers, heads, kv_heads, hidden, **rest) -> dict[str, Any]:
  return dict(width=width, layers=layers, heads=heads, kv_heads=kv_heads,
              hidden=hidden, **rest)


SHAPES: dict[str, dict[str, Any]] = {
    'tiny': _size(32, 2, 4, 2, 64),
    'nano': _size(128, 4, 4, 2, 448),
    'small': _size(384, 6, 6, 3, 1344),
    'llama-3.1-8b': _size(4096, 32, 32, 8, 14336, **LLAMA_31),
    'llama-3.2-1b': _size(2048, 16, 32, 8, 8192, **LLAMA_32),
    'llama-3.2-3b': _size(3072, 28, 24, 8, 8192, **LLAMA_32),
    # the 32 layers of 40 that a text passes; see hf.architecture
    'llama-3.2-11b-vision': _size(
        4096, 32, 32, 8, 14336, extra_embeddings=8, **LLAMA_31),
    'qwen2.5-0.5b': _size(
        896, 24, 14, 2, 4864, vocabulary=151_936, tied=True, **QWEN_25),
    'qwen2.5-1.5b': _size(
        1536, 28, 12, 2, 8960, vocabulary=151_936, tied=True, **QWEN_25),
    'qwen2.5-3b': _size(
        2048, 36, 16, 2, 11008, vocabulary=151_936, tied=True, **QWEN_25),
    'qwen2.5-7b': _size(
        3584, 28, 28, 4, 18944, vocabulary=152_064, **QWEN_25),
    'qwen2.5-14b': _size(
        5120, 48, 40, 8, 13824, vocabulary=152_064, **QWEN_25),
    'qwen3-0.6b': _size(1024, 28, 16, 8, 3072, tied=True, **QWEN_3),
    'qwen3-1.7b': _size(2048, 28, 16, 8, 6144, tied=True, **QWEN_3),
    'qwen3-4b': _size(2560, 36, 32, 8, 9728, tied=True, **QWEN_3),
    'qwen3-8b': _size(4096, 36, 32, 8, 12288, **QWEN_3),
}


def shape(name: str) -> dict[str, Any]:
  """The fields of a named size; ValueError lists the known ones."""
  if name not in SHAPES:
    raise ValueError(f'no preset {name!r}; known: {", ".join(SHAPES)}')
  return SHAPES[name]
