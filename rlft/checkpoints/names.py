"""What a tensor's name says: its layer, its expert, its module.

`model.layers.12.self_attn.q_proj.weight` is layer 12, module q_proj. Nothing is
known of the model's class: the first number in a name is taken for the layer,
a second one for the expert.
"""
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from rlft.checkpoints.tensor import DTYPES, Checkpoint, Tensor
from rlft.ops import trees

# The linear maps of the blocks, as the common families call them, in the order
# in which a block uses them.
KNOWN = (
    'qkv_proj', 'query_key_value', 'c_attn', 'wqkv', 'in_proj', 'q_proj',
    'q_a_proj', 'q_b_proj', 'wq', 'k_proj', 'wk', 'kv_a_proj_with_mqa',
    'kv_b_proj', 'v_proj', 'wv', 'o_proj', 'wo', 'out_proj', 'dense',
    'gate_up_proj', 'gate_proj', 'up_proj', 'down_proj', 'dense_h_to_4h',
    'dense_4h_to_h', 'c_fc', 'c_proj', 'fc1', 'fc2', 'w1', 'w3', 'w2')
DIRECTORY = rf'\.\d+\.(.*\.)?({"|".join(KNOWN)})(\.weight)?$'
MOST = 16  # names that a message lists
ENDINGS = ('weight', 'kernel')


class Place(NamedTuple):
  """Where a matrix is in the model."""
  name: str  # of the tensor
  index: int | None  # of the matrix in a tensor that is a stack of experts
  stack: str  # what its layer is counted in: '' is in no layer
  layer: int
  expert: int | None
  module: str


def default(kind: str) -> str:
  """The regex of the matrices that are taken when none is given."""
  return DIRECTORY if kind == 'directory' else trees.BLOCKS


def select(checkpoint: Checkpoint, pattern: str | None) -> list[str]:
  """Names of the matrices that match, or stacks of them; vectors do not count.

  ValueError when there are none, or for one that cannot be decomposed.
  """
  default_ = pattern in (None, DIRECTORY)
  pattern = default(checkpoint.kind) if pattern is None else pattern
  try:
    wanted = re.compile(pattern)
  except re.error as error:
    raise ValueError(f'select={pattern!r} is no regex: {error}') from error
  known = [k for k, v in checkpoint.tensors.items()
           if len(v.shape) >= _least(checkpoint, k)]
  found = [name for name in known if wanted.search(name)]
  if not found:
    asked = ('the default, which knows the modules of common blocks'
             if default_ else repr(pattern))
    kinds = list(dict.fromkeys(re.sub(r'\d+', 'N', k) for k in known))
    more = f' and {len(kinds) - MOST} more' if len(kinds) > MOST else ''
    raise ValueError(
        f'no matrix of {checkpoint.name} has a name that matches {asked}; give '
        f'--select=REGEX for {", ".join(kinds[:MOST]) or "... it has none"}'
        f'{more}')
  for name in found:
    _take(checkpoint, name, checkpoint.tensors[name])
  return found


def left_out(checkpoint: Checkpoint, pattern: str | None) -> str | None:
  """A warning of the matrices of blocks that the default does not take.

  Of another pattern, of the vectors that it would take.
  """
  if checkpoint.kind == 'run':
    return None
  if pattern not in (None, DIRECTORY):
    flat = [name for name, tensor in checkpoint.tensors.items()
            if len(tensor.shape) < 2 and re.search(pattern, name)]
    return (f'{len(flat)} tensors that match are vectors and are left out, '
            f'such as {flat[0]}') if flat else None
  rest = [name for name, tensor in checkpoint.tensors.items()
          if len(tensor.shape) > 1 and re.search(r'(^|\.)\d+\.', name)
          and not re.search(DIRECTORY, name)]
  if not rest:
    return None
  found = ', '.join(dict.fromkeys(modules(rest).values()))
  return (f'{len(rest)} matrices of blocks are not of the modules that are '
          f'taken by default: {found}; --select=REGEX takes them')


def _least(checkpoint: Checkpoint, name: str) -> int:
  """Axes of a matrix: those of a run's layers are stacked."""
  return 2 + (checkpoint.kind == 'run' and 'layers' in name.split('/')[:-1])


def _take(checkpoint: Checkpoint, name: str, tensor: Tensor) -> None:
  most = _least(checkpoint, name) + 1
  if len(tensor.shape) > most or not all(tensor.shape):
    raise ValueError(
        f'{checkpoint.name}: {name} of shape {list(tensor.shape)} is no '
        'matrix and no stack of matrices; narrow select')
  if tensor.dtype not in DTYPES:
    raise ValueError(
        f'{checkpoint.name}: {name} is {tensor.dtype}, and only '
        f'{", ".join(DTYPES)} can be decomposed; save the model in one of '
        'these, or narrow select')


def modules(names: Iterable[str]) -> dict[str, str]:
  """Name -> module: the last word of its path, more words where two collide."""
  paths = {name: _words(name) for name in names}
  known = set(paths.values())
  return {name: next(
      '.'.join(path[-n:]) for n in range(1, len(path) + 1)
      if n == len(path) or sum(p[-n:] == path[-n:] for p in known) == 1)
      for name, path in paths.items()}


def _words(name: str) -> tuple[str, ...]:
  """The words of a name without its numbers and its ending."""
  words = [w for w in re.split('[./]', name) if w and not w.isdecimal()]
  if len(words) > 1 and words[-1] in ENDINGS:
    words.pop()
  return tuple(words) or (name,)


def places(
    tensors: Mapping[str, Tensor], names: Iterable[str], kind: str,
) -> list[Place]:
  """The matrices of these tensors, by layer and in the order of a block.

  A stack of experts is taken apart, so that memory goes by the matrix; the
  stacks over layers of a run stay whole, and their place is layer 0.
  """
  found, short = [], modules(names)
  for name, module in short.items():
    words = re.split('[./]', name)
    numbers = [i for i, word in enumerate(words) if word.isdecimal()]
    layer = int(words[numbers[0]]) if numbers else 0
    expert = int(words[numbers[1]]) if len(numbers) > 1 else None
    stack = '.'.join(words[:numbers[0]]) if numbers else ''
    if kind == 'run':
      found.append(Place(name, None, 'layers' * ('layers' in words[:-1]), 0,
                         None, module))
    elif len(tensors[name].shape) == 3:
      found += [Place(name, i, stack, layer, i, module)
                for i in range(tensors[name].shape[0])]
    else:
      found.append(Place(name, None, stack, layer, expert, module))
  return sorted(found, key=lambda x: (x.layer, _rank(x.module), x.expert or 0))


def _rank(module: str) -> int:
  last = module.rpartition('.')[2]
  return KNOWN.index(last) if last in KNOWN else len(KNOWN)


def depths(tensors: Iterable[str]) -> dict[str, int]:
  """Number of layers of every stack of blocks in a directory."""
  found = {}
  for name in tensors:
    words = re.split('[./]', name)
    numbers = [i for i, word in enumerate(words) if word.isdecimal()]
    if numbers:
      stack = '.'.join(words[:numbers[0]])
      found[stack] = max(found.get(stack, 0), int(words[numbers[0]]) + 1)
  return found
