"""What a run keeps of the directory that it was imported from.

`RUN_DIR/huggingface/` holds the files beside the weights (config, generation
config, tokenizer) and, below `layout/`, the header of every weight file and
`others.safetensors`, the tensors that are no parameter of ours. From these and
the run's parameters a directory is written again that differs in nothing but
the numbers.
"""
import functools
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from rlft.checkpoints import directory, header, rewrite
from rlft.checkpoints.tensor import Checkpoint, Tensor

LAYOUT, OTHERS = 'layout', 'others.safetensors'
LENGTH = 8  # bytes that say how long a header is


def keep(
    source: Checkpoint, others: Iterable[str], folder: pathlib.Path) -> None:
  """Writes `folder` from a directory, `others` being kept with their data."""
  layout = folder / LAYOUT
  layout.mkdir(parents=True)
  rewrite.copy_beside(pathlib.Path(source.name), folder)
  others = set(others)
  for label, path in source.files.items():
    with path.open('rb') as file:
      (layout / f'{label}.header').write_bytes(
          file.read(header.read(path).size))
  (layout / 'order.json').write_text(json.dumps(list(source.files)) + '\n')
  entries, at = {}, 0
  in_order = [name for label, path in source.files.items()
              for name in header.read(path).entries if name in others]
  for name in in_order:
    found = source.tensors[name]
    size = header.bits_of(found) // 8
    entries[name] = dict(dtype=found.dtype, shape=list(found.shape),
                         data_offsets=[at, at + size])
    at += size
  head = json.dumps(entries).encode()
  with (layout / OTHERS).open('xb') as file:
    file.write(len(head).to_bytes(LENGTH, 'little') + head)
    for _, name, data in source.stream():
      if name in others:
        file.write(data)


def read(folder: pathlib.Path) -> Checkpoint:
  """The checkpoint that was kept; of parameters there are no data."""
  layout = folder / LAYOUT
  labels = json.loads((layout / 'order.json').read_bytes())
  headers = {label: (layout / f'{label}.header').read_bytes()
             for label in labels}
  tensors, order = {}, {}
  for label, raw in headers.items():
    table = json.loads(raw[LENGTH:])
    table.pop('__metadata__', None)
    order[label] = sorted(table, key=lambda k: table[k]['data_offsets'])
    tensors |= {name: Tensor(tuple(entry['shape']), entry['dtype'])
                for name, entry in table.items()}
  others = layout / OTHERS
  return Checkpoint(
      str(folder), 'directory', tensors, _nothing,
      functools.partial(_stream, headers, order, others),
      dict.fromkeys(labels, others), _nothing)


def _stream(
    headers: dict[str, bytes], order: dict[str, list[str]],
    others: pathlib.Path,
) -> Iterator[tuple[str, str, bytes]]:
  """As `Checkpoint.stream`; of parameters, which are exchanged, b''."""
  kept = header.read(others).entries
  with others.open('rb') as file:
    for label, raw in headers.items():
      yield label, '', raw
      for name in order[label]:
        if name not in kept:
          yield label, name, b''
          continue
        file.seek(kept[name].start)
        yield from ((label, name, data) for data in directory.chunks(
            file, kept[name].stop - kept[name].start, others))


def _nothing(name: str, *_: Any) -> Any:
  raise ValueError(f'of {name} only the layout was kept')
