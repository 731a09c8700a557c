"""Headers of safetensors files: what is sound, and one line for what is not."""
import json
import struct

import hypothesis
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import strategies as st

from rlft.checkpoints import header
from rlft.checkpoints.tensor import Tensor

TENSORS = {
    'b': np.arange(6, dtype=np.float32).reshape(2, 3),
    'a': np.ones((4,), ml_dtypes.bfloat16),
    'empty': np.zeros((0, 3), np.float16), 'ids': np.arange(3)}


def raw(table, data=b'', length=None):
  """A file with this table (or text) as its header."""
  text = table if isinstance(table, bytes) else json.dumps(table).encode()
  return struct.pack('<Q', len(text) if length is None else length) + text + (
      data)


def entry(start, stop, dtype='F32', shape=(1,)):
  return {'dtype': dtype, 'shape': list(shape), 'data_offsets': [start, stop]}


def test_a_file_of_the_library_is_read_as_it_reads_it(tmp_path):
  path = tmp_path / 'x.safetensors'
  safetensors.numpy.save_file(TENSORS, path, metadata={'format': 'pt'})
  found = header.read(path)
  assert found.metadata == {'format': 'pt'}
  assert set(found.entries) == set(TENSORS)
  assert found.entries['b'].tensor == Tensor((2, 3), 'F32')
  assert found.entries['a'].tensor == Tensor((4,), 'BF16')
  assert found.entries['ids'].tensor.dtype == 'I64'
  data = path.read_bytes()
  for name, array in TENSORS.items():
    _, start, stop = found.entries[name]
    assert data[start:stop] == array.tobytes()


@pytest.mark.parametrize('content, complaint', [
    (b'', '0 bytes are fewer'),
    (b'\1\0\0', '3 bytes are fewer'),
    (raw({}, length=2**63), f'a header of {2**63} bytes'),
    (raw({}, length=200_000_000), 'a header of 200000000 bytes'),
    (raw({}, length=50), 'fewer than its header of 50'),
    (raw(b'not json'), 'no JSON'),
    (raw(b'[' * 20_000), 'no JSON'),
    (raw([1]), 'no JSON object'),
    (raw({'__metadata__': {'a': 1}}), 'metadata are not texts'),
    (raw(b'{"a": 1, "a": 2}'), 'a name twice'),
    (raw({'a\nb': 3}), r"name 'a\\nb' is not printable"),
    (raw({'\x1b[2J': 3}), r"name '\\x1b\[2J' is not printable"),
    (raw({'\ud800': 3}), 'is not printable'),
    (raw({'a': 3}), 'not described by'),
    (raw({'a': {**entry(0, 4), 'more': 1}}, b'1234'), 'not described by'),
    (raw({'a': entry(0, 4, dtype='F33')}, b'1234'), "unknown dtype 'F33'"),
    (raw({'a': entry(0, 4, dtype=['F32'])}, b'1234'), 'unknown dtype'),
    (raw({'a': entry(0, 4, shape=(-1,))}, b'1234'), 'no counts'),
    (raw({'a': entry(0, 4, shape=(True,))}, b'1234'), 'no counts'),
    (raw({'a': entry(0, 4.0)}, b'1234'), 'no counts'),
    (raw({'a': entry(-4, 0)}, b'1234'), 'no counts'),
    (raw({'a': entry(0, 8, shape=(2,))}, b'1234'), r'ends at byte \d+ of'),
    (raw({'a': entry(4, 0)}, b'1234'), 'ends at byte'),
    (raw({'a': entry(0, 4, shape=(2,))}, b'1234'), 'has 4 bytes'),
    (raw({'a': entry(0, 4, shape=(2**62, 4))}, b'1234'), 'has 4 bytes'),
    (raw({'a': entry(0, 4), 'b': entry(0, 4)}, b'1234'), 'starts at byte'),
    (raw({'a': entry(4, 8)}, b'12345678'), 'starts at byte'),
    (raw({'a': entry(0, 4)}, b'12345678'), 'its tensors end at'),
])
def test_what_is_not_sound_is_one_line(tmp_path, content, complaint):
  path = tmp_path / 'x.safetensors'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=complaint) as found:
    header.read(path)
  assert str(path) in str(found.value) and 'copy it again' in str(found.value)


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=150, suppress_health_check=[
    hypothesis.HealthCheck.function_scoped_fixture])
def test_a_spoiled_header_never_reaches_past_the_file(tmp_path, data):
  """Flipped, cut or grown: either an error of one line or sound offsets."""
  path = tmp_path / 'x.safetensors'
  safetensors.numpy.save_file(TENSORS, path)
  content = bytearray(path.read_bytes())
  size = int.from_bytes(content[:8], 'little') + 8
  for _ in range(data.draw(st.integers(1, 3))):
    content[data.draw(st.integers(0, size - 1))] = data.draw(
        st.integers(0, 255))
  content = content[:data.draw(st.sampled_from([None, -1, -9, size, 5]))]
  path.write_bytes(content)
  try:
    found = header.read(path)
  except ValueError:
    return
  end = found.size
  for tensor, start, stop in found.entries.values():
    assert start == end and stop <= len(content)
    assert np.prod(tensor.shape) * header.BITS[tensor.dtype] == 8 * (
        stop - start)
    end = stop
  assert end == len(content)
