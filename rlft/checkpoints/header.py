"""The header of a safetensors file, checked before anything else is read.

The library's own reader checks much of this; here all of it is checked before
a byte of data is touched, and both have to agree on the names. Format:
https://huggingface.co/docs/safetensors, section Format.
"""
import json
import math
import pathlib
from typing import Any, NamedTuple

import safetensors

from rlft import paths
from rlft.checkpoints.tensor import Tensor

LARGEST = 100_000_000  # bytes of a header, the library's own limit
BITS = {
    'BOOL': 8, 'U8': 8, 'I8': 8, 'F8_E4M3': 8, 'F8_E5M2': 8, 'F8_E8M0': 8,
    'I16': 16, 'U16': 16, 'F16': 16, 'BF16': 16, 'I32': 32, 'U32': 32,
    'F32': 32, 'F64': 64, 'I64': 64, 'U64': 64, 'C64': 64, 'F4': 4,
    'F6_E2M3': 6, 'F6_E3M2': 6}


class Entry(NamedTuple):
  """A tensor and where its bytes are, counted from the start of the file."""
  tensor: Tensor
  start: int
  stop: int


class Header(NamedTuple):
  """What comes before the data."""
  size: int  # bytes until the data, length word included
  entries: dict[str, Entry]  # by where they lie in the file
  metadata: dict[str, str]


def read(path: pathlib.Path) -> Header:
  """The header of a file; ValueError, with the path, when it is not sound."""
  try:
    found = _read(path)
    with safetensors.safe_open(path, framework='np') as file:
      names = set(file.keys())
  except (_Unsound, safetensors.SafetensorError) as error:
    raise ValueError(
        f'{path} is damaged or no safetensors file ({error}): copy it again'
    ) from error
  if names != set(found.entries):
    raise ValueError(f'{path} is read differently by the safetensors library')
  return found


class _Unsound(Exception):
  """What is wrong with a header."""


def _read(path: pathlib.Path) -> Header:
  whole = path.stat().st_size
  with path.open('rb') as file:
    length = int.from_bytes(file.read(8), 'little')
    if whole < 8 or length > LARGEST or 8 + length > whole:
      raise _Unsound(
          f'{whole} bytes are fewer than its header of {length} needs'
          if length <= LARGEST else f'a header of {length} bytes')
    text = file.read(length)
  try:
    table = json.loads(text, object_pairs_hook=_once)
  except (ValueError, RecursionError) as error:
    raise _Unsound('its header is no JSON') from error
  if not isinstance(table, dict):
    raise _Unsound('its header is no JSON object')
  metadata = table.pop('__metadata__', {})
  if not isinstance(metadata, dict) or not all(
      isinstance(x, str) for x in metadata.values()):
    raise _Unsound('its metadata are not texts')
  odd = [name for name in table if paths.is_odd(name)]
  if odd:
    raise _Unsound(f'the name {ascii(odd[0])[:80]} is not printable')
  entries = {name: _entry(name, entry, 8 + length, whole)
             for name, entry in table.items()}
  entries = dict(sorted(entries.items(), key=lambda item: item[1][1:]))
  end = 8 + length
  for name, entry in entries.items():
    if entry.start != end:
      raise _Unsound(f'{name} starts at byte {entry.start}, not at {end}')
    end = entry.stop
  if end != whole:
    raise _Unsound(f'its tensors end at byte {end} of {whole}')
  return Header(8 + length, entries, metadata)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    raise _Unsound('its header has a name twice')
  return found


def _entry(name: str, entry: Any, begin: int, whole: int) -> Entry:
  if not isinstance(entry, dict) or set(entry) != {
      'dtype', 'shape', 'data_offsets'}:
    raise _Unsound(f'{name} is not described by dtype, shape and data_offsets')
  dtype, shape, offsets = (
      entry[k] for k in ('dtype', 'shape', 'data_offsets'))
  if not isinstance(dtype, str) or dtype not in BITS:
    raise _Unsound(f'{name} has the unknown dtype {dtype!r}')
  if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
    raise _Unsound(f'{name} has a shape or offsets that are no counts')
  start, stop = (begin + offset for offset in offsets)
  if not begin <= start <= stop <= whole:
    raise _Unsound(f'{name} ends at byte {stop} of {whole}')
  found = Tensor(tuple(shape), dtype)
  if bits_of(found) != 8 * (stop - start):
    raise _Unsound(f'{name} of shape {shape} has {stop - start} bytes')
  return Entry(found, start, stop)


def bits_of(tensor: Tensor) -> int:
  """How many bits its data are."""
  return math.prod(tensor.shape) * BITS[tensor.dtype]


def _counts(values: Any) -> bool:
  return isinstance(values, list) and all(
      isinstance(x, int) and not isinstance(x, bool) and x >= 0
      for x in values)
