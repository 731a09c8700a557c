"""A checkpoint to the functions that compare and edit: names and a reader.

M x N is a matrix that acts as x @ W, input first. Torch's linear layers store
(output, input); `matrix` turns those round, so that input and output mean the
same in every checkpoint.
"""
import hashlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

# What the library reads weights of; other tensors are copied as they are.
DTYPES = {
    'F32': np.dtype(np.float32), 'F16': np.dtype(np.float16),
    'BF16': np.dtype(ml_dtypes.bfloat16)}
EXPONENT = {  # word and the bits that are all set in NaN and infinity
    'F32': (np.uint32, 0x7f800000), 'F16': (np.uint16, 0x7c00),
    'BF16': (np.uint16, 0x7f80)}
CHUNK = 2**24  # bytes read at a time where a tensor is only looked through


class Tensor(NamedTuple):
  """What a header says of one tensor; `dtype` as safetensors spells it."""
  shape: tuple[int, ...]
  dtype: str


class Checkpoint(NamedTuple):
  """Names in the order they are stored, and how to read each."""
  name: str  # as the person wrote it
  kind: str  # 'directory' or 'run'
  tensors: dict[str, Tensor]
  # name, index of the leading axis or None -> the array in storage layout
  read: Callable[[str, int | None], Shaped[np.ndarray, '...']]
  # Every file of the weights as (label, chunks), a chunk being the name of the
  # tensor it is of ('' for a header) and its bytes.
  stream: Callable[[], Iterator[tuple[str, str, Any]]]
  files: dict[str, pathlib.Path]  # label -> weight file; empty for runs
  # name, a slice for each axis -> that part, reading little beside it
  cut: Callable[[str, tuple[slice, ...]], Shaped[np.ndarray, '...']]


def output_first(kind: str, name: str) -> bool:
  """Whether a tensor is stored as (output, input).

  In a directory that is what torch's linear layers call `weight`. A stack of
  experts without that word is a bare parameter, stored to act as x @ W, as in
  Llama 4 and GPT-OSS.
  """
  return kind == 'directory' and name.endswith('.weight')


def matrix(
    checkpoint: Checkpoint, name: str, index: int | None = None,
) -> Shaped[np.ndarray, '*L M N']:
  """A tensor (or one matrix of its stack) to act as x @ W, in its dtype."""
  found = checkpoint.read(name, index)
  if output_first(checkpoint.kind, name):
    found = np.swapaxes(found, -1, -2)
  return found


def shape_of(
    checkpoint: Checkpoint, name: str, index: int | None = None,
) -> tuple[int, ...]:
  """The shape of `matrix`, without reading it."""
  shape = checkpoint.tensors[name].shape
  shape = shape if index is None else shape[1:]
  if output_first(checkpoint.kind, name):
    shape = (*shape[:-2], shape[-1], shape[-2])
  return shape


def finite(array: Shaped[np.ndarray, '...']) -> bool:
  """Whether an array of one of DTYPES holds no NaN and no infinity."""
  dtype = next(k for k, v in DTYPES.items() if v == array.dtype)
  return finite_words(array.ravel(order='K'), dtype)


def finite_words(data: Any, dtype: str) -> bool:
  """The same for the raw bytes of a tensor."""
  # By bits: isfinite of bfloat16 is a loop that is twenty times slower.
  # Some at a time: the words that are looked at are not all held twice.
  word, exponent = EXPONENT[dtype]
  words, bits = np.frombuffer(data, word), word(exponent)
  step = CHUNK // words.itemsize
  return not any(
      ((words[at:at + step] & bits) == bits).any()
      for at in range(0, words.size, step))


class Digests(NamedTuple):
  """sha256 of every file, and of every tensor's bytes as they are stored."""
  files: dict[str, str]
  tensors: dict[str, str]


def digest(
    checkpoint: Checkpoint, check: set[str], seen: Callable[[str], None],
) -> Digests:
  """Reads all of it once; ValueError when one of `check` is not finite.

  `seen` is called with the name of each tensor that is done.
  """
  files, tensors, last = {}, {}, ''
  for label, name, data in checkpoint.stream():
    if label:
      files.setdefault(label, hashlib.sha256()).update(data)
    if not name:
      continue
    if name not in tensors:
      tensors[name] = hashlib.sha256()
      if last:
        seen(last)
      last = name
    tensors[name].update(data)
    if name in check and not finite_words(
        data, checkpoint.tensors[name].dtype):
      raise not_finite(checkpoint.name, name)
  if last:
    seen(last)
  return Digests(*({k: v.hexdigest() for k, v in found.items()}
                   for found in (files, tensors)))


def sha256(array: Shaped[np.ndarray, '...']) -> str:
  """Of an array's bytes in storage order."""
  flat = np.ascontiguousarray(array).reshape(-1)
  return hashlib.sha256(flat.view(np.uint8).data).hexdigest()


def not_finite(
    checkpoint: str, name: str, then: str = ', or leave it out with --select',
) -> ValueError:
  """The error for a tensor that holds NaN or infinity."""
  return ValueError(f'{checkpoint}: {name} holds NaN or infinity; take an '
                    f'earlier checkpoint{then}')
