"""What a Hugging Face `config.json` says of a model, as fields of ours.

Known: `model_type` llama (Llama 2, 3, 3.1, 3.2), qwen2 (Qwen2, Qwen2.5), qwen3
and mllama (Llama 3.2 Vision, of which the language model is taken: a text
passes no layer that attends to images). A field that would change what the
model computes, and that is not known here, is refused: nothing is guessed.
"""
import json
import pathlib
from typing import Any, NamedTuple

from rlft.ops import rope

CONFIG = 'config.json'
KEPT = 'huggingface'  # of the directory that a run comes from, see kept
FAMILIES = ('llama', 'qwen2', 'qwen3', 'mllama')
LARGEST = 10_000_000  # bytes of a config.json
IMAGE_TOKENS = 8  # rows of Mllama's embedding beyond its vocabulary
NEUTRAL = {  # fields that change the model unless they have these values
    'attention_bias': (False,), 'mlp_bias': (False,),
    'use_sliding_window': (False,), 'hidden_act': ('silu', 'swish'),
    'partial_rotary_factor': (1.0,), 'quantization_config': (),
    'layer_types': (), 'auto_map': (),
    # of relatives whose files sometimes carry one of these model_types
    **dict.fromkeys(('attn_logit_softcapping', 'final_logit_softcapping',
                     'query_pre_attn_scalar', 'attention_multiplier'), ()),
    **dict.fromkeys(('residual_multiplier', 'embedding_multiplier',
                     'logits_scaling', 'logit_scale'), (1.0,))}


class Architecture(NamedTuple):
  """A model's family and the fields of `models.transformer.Model`."""
  family: str  # model_type
  shape: dict[str, Any]
  layers: tuple[int, ...]  # numbers in the checkpoint of the layers taken
  file: str  # where it was read, for errors

  @property
  def partial(self) -> bool:
    """Whether a checkpoint holds tensors of other parts as well."""
    return self.family == 'mllama'


def read(folder: pathlib.Path) -> Architecture:
  """The architecture of a directory; ValueError names the file and field."""
  path = folder / CONFIG
  if not path.is_file():
    raise ValueError(f'{path} is missing: give a Hugging Face directory')
  try:
    if path.stat().st_size > LARGEST:
      raise ValueError('too large')
    found = json.loads(path.read_bytes())
    if not isinstance(found, dict):
      raise ValueError('no object')
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path} is damaged ({error}): copy it again') from error
  return parse(found, str(path))


def parse(config: dict[str, Any], file: str) -> Architecture:
  """The same of what such a file holds."""
  family = config.get('model_type')
  if family not in FAMILIES:
    raise ValueError(
        f'{file}: model_type {family!r} is not known; known: '
        f'{", ".join(FAMILIES)}')
  _refuse(config, file)
  text = config
  if family == 'mllama':
    text = config.get('text_config')
    if not isinstance(text, dict):
      raise ValueError(f'{file}: text_config is missing')
    file = f'{file} text_config'
    _refuse(text, file)
  depth = _count(text, 'num_hidden_layers', file)
  skipped = _skipped(text, depth, file) if family == 'mllama' else set()
  layers = tuple(i for i in range(depth) if i not in skipped)
  heads = _count(text, 'num_attention_heads', file)
  kv_heads = _count(
      text, 'num_key_value_heads', file, heads if family == 'llama' else None)
  if heads % kv_heads:
    raise ValueError(f'{file}: num_attention_heads={heads} is no multiple of '
                     f'num_key_value_heads={kv_heads}')
  shape = dict(
      vocabulary=_count(text, 'vocab_size', file),
      width=_count(text, 'hidden_size', file), layers=len(layers),
      heads=heads, kv_heads=kv_heads,
      hidden=_count(text, 'intermediate_size', file),
      epsilon=_number(text, 'rms_norm_eps', file),
      rope=_rope(text, file), qkv_bias=family == 'qwen2',
      qk_norm=family == 'qwen3', tied=_tied(config, text, file),
      extra_embeddings=IMAGE_TOKENS if family == 'mllama' else 0)
  size = _head_size(text, shape, family, file)
  if size * heads != shape['width']:
    shape['head_size'] = size
  return Architecture(family, shape, layers, file)


def _head_size(
    text: dict[str, Any], shape: dict[str, Any], family: str, file: str,
) -> int:
  """head_dim, or width / heads; Qwen3's config class has another default."""
  width, heads = shape['width'], shape['heads']
  given = family == 'qwen3' or text.get('head_dim') is not None
  if not given and width % heads:
    raise ValueError(f'{file}: hidden_size={width} is no multiple of '
                     f'num_attention_heads={heads}, and head_dim is missing')
  size = _count(text, 'head_dim', file, None if given else width // heads)
  if size % 2:
    raise ValueError(f'{file}: head_dim is {size}: an odd head cannot be '
                     'rotated')
  return size


def _refuse(config: dict[str, Any], file: str) -> None:
  for field, neutral in NEUTRAL.items():
    value = config.get(field)
    if field == 'layer_types' and isinstance(value, list) and all(
        kind == 'full_attention' for kind in value):
      continue
    if value is not None and value not in neutral:
      raise ValueError(
          f'{file}: {field}={value!r} is not supported'
          + (f', only {neutral[0]!r}' if neutral else
             ': rlft runs no code of a model\'s own' if field == 'auto_map'
             else ''))


def _skipped(text: dict[str, Any], depth: int, file: str) -> set[int]:
  """The layers that attend to images; a text passes none of them."""
  found = text.get('cross_attention_layers')
  if not isinstance(found, list) or not all(
      type(x) is int and 0 <= x < depth for x in found) or (
          len(set(found)) == depth):
    raise ValueError(
        f'{file}: cross_attention_layers={found!r} does not list some of '
        f'{depth} layers')
  return set(found)


def _tied(config: dict[str, Any], text: dict[str, Any], file: str) -> bool:
  for section in (text, config):
    value = section.get('tie_word_embeddings')
    if value is not None:
      if not isinstance(value, bool):
        raise ValueError(f'{file}: tie_word_embeddings={value!r} is no bool')
      return value
  return False


def _rope(text: dict[str, Any], file: str) -> dict[str, Any]:
  """The rope of a config: rope_parameters, or rope_theta and rope_scaling."""
  name = 'rope_parameters' if text.get('rope_parameters') else 'rope_scaling'
  found = text.get(name) or {}
  if not isinstance(found, dict):
    raise ValueError(f'{file}: {name}={found!r} is no object')
  where = f'{file} {name}'
  kind = found.get('rope_type', found.get('type', 'default'))
  if kind not in rope.SCALINGS:
    raise ValueError(f'{where}: rope_type {kind!r} is not known; known: '
                     f'{", ".join(rope.SCALINGS)}')
  base = found if 'rope_theta' in found else text
  made = dict(base=_number(base, 'rope_theta', file))
  if found.get('partial_rotary_factor', 1.0) != 1.0:
    raise ValueError(f'{where}: partial_rotary_factor is not supported')
  if kind != 'default':
    made |= dict(scaling=kind, factor=_number(found, 'factor', where))
  if kind == 'llama3':
    made |= dict(
        low_frequency=_number(found, 'low_freq_factor', where),
        high_frequency=_number(found, 'high_freq_factor', where),
        context=_count(found, 'original_max_position_embeddings', where))
  return made


def _count(
    config: dict[str, Any], field: str, file: str, default: int | None = None,
) -> int:
  value = config.get(field)
  value = default if value is None else value
  if type(value) is not int or value < 1:
    raise ValueError(
        f'{file}: {field} is ' + ('missing' if value is None else
                                  f'{value!r}, no whole number from 1'))
  return value


def _number(config: dict[str, Any], field: str, file: str) -> float:
  value = config.get(field)
  if isinstance(value, bool) or not isinstance(value, int | float) or (
      not 0 < value < float('inf')):
    raise ValueError(
        f'{file}: {field} is ' + ('missing' if value is None else
                                  f'{value!r}, no number above 0'))
  return float(value)
