"""Which tensors of a Hugging Face checkpoint make up which parameter."""
import re
from collections.abc import Mapping
from typing import NamedTuple

from rlft.checkpoints.tensor import DTYPES, Tensor
from rlft.hf.architecture import Architecture

BLOCK = {  # below layers/, and below layers.N.
    'attention_norm/scale': 'input_layernorm.weight',
    'mlp_norm/scale': 'post_attention_layernorm.weight',
    **{f'attention/{ours}/{kind}': f'self_attn.{theirs}_proj.{ending}'
       for ours, theirs in (
           ('query', 'q'), ('key', 'k'), ('value', 'v'), ('out', 'o'))
       for kind, ending in (('kernel', 'weight'), ('bias', 'bias'))},
    'attention/query_norm/scale': 'self_attn.q_norm.weight',
    'attention/key_norm/scale': 'self_attn.k_norm.weight',
    **{f'mlp/{name}/kernel': f'mlp.{name}_proj.weight'
       for name in ('gate', 'up', 'down')}}
EMBED, NORM, HEAD = 'embed_tokens.weight', 'norm.weight', 'lm_head.weight'
# What stands before these names if a checkpoint does not say.
STEMS = {'mllama': ('language_model.model.', 'language_model.')}
# Old checkpoints hold what is computed from the config.
COMPUTED = re.compile(r'rotary_emb\.inv_freq$')
# What a text does not pass, and is kept as it is.
OTHER_PARTS = re.compile(
    r'(^|\.)(vision_model|multi_modal_projector)\.|\.cross_attn[._]|'
    r'\.layers\.\d+\.')


class Parameter(NamedTuple):
  """The tensors of one parameter, and how they are laid out."""
  tensors: tuple[str, ...]  # one for each layer, or one
  stacked: bool
  transposed: bool  # stored as (output, input)


class Plan(NamedTuple):
  """Where everything of a checkpoint goes."""
  parameters: dict[str, Parameter]  # by path
  twin: str | None  # the head's tensor where it has to equal the embedding
  others: tuple[str, ...]  # tensors of other parts, kept as they are


def plan(
    shapes: Mapping[str, tuple[int, ...]], architecture: Architecture,
    tensors: Mapping[str, Tensor], source: str,
) -> Plan:
  """The tensors of each parameter of `shapes`, nothing left and nothing open.

  ValueError lists parameters without a tensor, tensors without a parameter,
  and what differs in shape or cannot be read.
  """
  stem, before_head = _stem(architecture, tensors)
  found = {path: _parameter(path, architecture.layers, stem, before_head)
           for path in shapes}
  wanted = {name: path for path, p in found.items() for name in p.tensors}
  missing = [name for name in wanted if name not in tensors]
  if missing:
    raise ValueError(
        f'{source} lacks {_listed(missing)}, which {architecture.file} '
        'asks for')
  head, embedding = before_head + HEAD, stem + EMBED
  twin = head if architecture.shape['tied'] and head in tensors else None
  left = [name for name in tensors if name not in wanted and name != twin
          and not COMPUTED.search(name)]
  own = [name for name in left if not (
      architecture.partial and OTHER_PARTS.search(name)
      and not _taken(name, stem, architecture))]
  if own:
    raise ValueError(
        f'{source} holds {_listed(own)}, for which a {architecture.family} of '
        f'{architecture.file} has no place')
  _fit(shapes, found, tensors, source)
  if twin and tensors[twin] != tensors[embedding]:
    raise ValueError(
        f'{source}: {twin} is not like {embedding}, to which '
        f'{architecture.file} ties it')
  return Plan(found, twin, tuple(left))


def _stem(
    architecture: Architecture, tensors: Mapping[str, Tensor],
) -> tuple[str, str]:
  """What stands before the names of the layers, and before the head's.

  Versions of transformers have saved Mllama under different ones.
  """
  known = STEMS.get(architecture.family, ('model.', ''))
  return tuple(
      next((name.removesuffix(ending) for name in tensors
            if name.endswith('.' + ending) or name == ending), default)
      for ending, default in zip((EMBED, HEAD), known, strict=True))


def _parameter(
    path: str, layers: tuple[int, ...], stem: str, before_head: str,
) -> Parameter:
  if path == 'embed/embedding':
    return Parameter((stem + EMBED,), False, False)
  if path == 'final_norm/scale':
    return Parameter((stem + NORM,), False, False)
  if path == 'head/kernel':
    return Parameter((before_head + HEAD,), False, True)
  name = BLOCK[path.removeprefix('layers/')]
  return Parameter(
      tuple(f'{stem}layers.{i}.{name}' for i in layers), True,
      path.endswith('kernel'))


def _taken(name: str, stem: str, architecture: Architecture) -> bool:
  """Whether it is of a layer that a text passes."""
  number = re.match(rf'{re.escape(stem)}layers\.(\d+)\.', name)
  return bool(number) and int(number[1]) in architecture.layers


def _fit(shapes, found, tensors, source) -> None:
  for path, parameter in found.items():
    shape = tuple(shapes[path])[parameter.stacked:]
    shape = shape[::-1] if parameter.transposed else shape
    for name in parameter.tensors:
      tensor = tensors[name]
      if tensor.shape != shape:
        raise ValueError(
            f'{source}: {name} has shape {list(tensor.shape)}, config.json '
            f'asks for {list(shape)}')
      if tensor.dtype not in DTYPES:
        raise ValueError(
            f'{source}: {name} has dtype {tensor.dtype}; known: '
            f'{", ".join(DTYPES)}')


def _listed(names: list[str], most: int = 5) -> str:
  more = f' and {len(names) - most} more' if len(names) > most else ''
  return ', '.join(names[:most]) + more
