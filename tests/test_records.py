"""Records by number, wherever they are kept; what is wrong, and where."""
import json
import sys
import tracemalloc

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlft import records
from tests import bucket

FIELDS = ('text', 'turns')


def whole(line):
  if not isinstance(json.loads(line), dict):
    raise ValueError('no object')


def opened(files, check=whole):
  return records.open_all(files, FIELDS, check)


def everything(found):
  return [json.loads(found.read(i)) for i in range(len(found))]


def written(path, rows, end='\n'):
  path.write_bytes(end.join(map(json.dumps, rows)).encode())
  return str(path)


ROWS = [{'text': f'row {i} Größe', 'turns': [{'a': i}, {'b': None}]}
        for i in range(5)]
FILLED = [records.filled(row) for row in ROWS]


@pytest.mark.parametrize('end', ['\n', '\r\n', '\n\n \n'])
def test_records_are_lines_without_those_that_are_blank(tmp_path, end):
  found = opened(written(tmp_path / 'a.jsonl', ROWS, end))
  assert everything(found) == ROWS
  apart = end.count('\n')
  assert [found.place(i) for i in range(5)] == [
      f'{tmp_path}/a.jsonl line {1 + apart * i}' for i in range(5)]


@given(st.lists(st.lists(
    st.text(max_size=9).map(lambda x: {'text': x}), min_size=1, max_size=6),
    min_size=1, max_size=4))
@settings(max_examples=25)
def test_files_stand_one_after_the_other(tmp_path_factory, parts):
  folder = tmp_path_factory.mktemp('files')
  for i, rows in enumerate(parts):
    written(folder / f'{i}.jsonl', rows)
  found = opened(f'{folder}/*.jsonl')
  assert everything(found) == [row for rows in parts for row in rows]
  assert [found.place(i) for i in range(len(found))] == [
      f'{folder}/{n}.jsonl line {i + 1}'
      for n, rows in enumerate(parts) for i in range(len(rows))]


def test_a_table_has_the_same_records(tmp_path):
  table = pytest.importorskip('pyarrow')
  from pyarrow import parquet
  parquet.write_table(
      table.Table.from_pylist([{**row, 'other': b'x'} for row in ROWS]),
      tmp_path / 'a.parquet', row_group_size=2)
  found = opened(f'{tmp_path}/a.parquet')
  assert everything(found) == FILLED
  assert found.place(3) == f'{tmp_path}/a.parquet line 4'
  (tmp_path / 'b.parquet').write_bytes(b'PAR1 and nothing PAR1')
  with pytest.raises(ValueError, match=r'b\.parquet is no Parquet file'):
    opened(f'{tmp_path}/b.parquet')


def test_a_table_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'pyarrow', None)
  (tmp_path / 'a.parquet').touch()
  with pytest.raises(ValueError, match=r'a\.parquet needs pyarrow: pip inst'):
    opened(f'{tmp_path}/a.parquet')


def test_what_lies_elsewhere_is_copied_once():
  system = fsspec.filesystem('memory')
  for name in 'ab':
    system.pipe(f'/r/{name}.jsonl', json.dumps(
        {'text': name}).encode() + b'\n{"text": "x"}')
  found = opened('memory://r/*.jsonl')
  system.rm('/r', recursive=True)
  assert [row['text'] for row in everything(found)] == ['a', 'x', 'b', 'x']
  assert found.place(3) == 'memory:///r/b.jsonl line 2'
  with pytest.raises(ValueError, match=r'there is no file memory://r/a\.jsonl'):
    opened('memory://r/a.jsonl')


def test_a_bucket_is_read(monkeypatch, caplog):
  with bucket.served() as world:
    for name, value in world.environment().items():
      monkeypatch.setenv(name, value)
    world.put('x/a.jsonl', b'{"text": "a"}\n' * 3)
    found = opened('gs://bucket/x/*.jsonl')
    assert [row['text'] for row in everything(found)] == ['a'] * 3
    assert found.place(1) == 'gs://bucket/x/a.jsonl line 2'
    world.put('x/b.jsonl', b'{"text": "b"}\n' * 3)
    world.fails = lambda asked: 403 if asked.what == 'get' else None
    with pytest.raises(OSError, match=r'^gs://bucket/x/b.jsonl cannot be read'):
      opened('gs://bucket/x/b.jsonl')
  assert not [r for r in caplog.records if r.levelname == 'ERROR']


@pytest.mark.parametrize('content, complaint', [
    (b'', 'a.jsonl is empty: leave it out'),
    (b'\n \n', 'a.jsonl is empty'),
    (b'{}\n\n[]\n{}', 'a.jsonl line 3: no object'),
    (b'{}\n{"a"', 'a.jsonl line 2: ')])
def test_a_bad_record_is_named(tmp_path, content, complaint):
  (tmp_path / 'a.jsonl').write_bytes(content)
  with pytest.raises(ValueError, match=complaint):
    opened(f'{tmp_path}/a.jsonl')


@pytest.mark.parametrize('files, complaint', [
    ('', 'there are no files'), ((), 'there are no files'),
    (' , ', 'there are no files'), ((3,), 'names no files'),
    (3, 'names no files'),
    ('nowhere.jsonl', 'there is no file nowhere.jsonl'),
    ('nowhere/*.jsonl', 'there is no file nowhere/'),
    ('a\n.jsonl', 'no file is called'), ('b\0.jsonl', 'no file is called'),
    ('setup.py,setup.py', 'setup.py is named twice'),
    ('chess://a/b', 'Protocol not known')])
def test_files_that_are_not_there(files, complaint):
  with pytest.raises(ValueError, match=complaint):
    opened(files)


def test_what_is_read_is_what_was_opened(tmp_path):
  """Another file of the same name is seen when it is opened, not before."""
  first = opened(written(tmp_path / 'a.jsonl', ROWS))
  written(tmp_path / 'b.jsonl', ROWS[::-1])
  (tmp_path / 'b.jsonl').replace(tmp_path / 'a.jsonl')
  second = opened(f'{tmp_path}/a.jsonl')
  assert everything(first) == ROWS == everything(second)[::-1]
  assert first.digest != second.digest
  written(tmp_path / 'a.jsonl', ROWS)
  assert opened(f'{tmp_path}/a.jsonl').digest == first.digest


def test_a_file_is_read_once_while_it_stays(tmp_path):
  seen = []
  files = written(tmp_path / 'a.jsonl', ROWS)
  for _ in range(2):
    opened(files, seen.append)
  assert len(seen) == len(ROWS)


def test_memory_does_not_grow_with_a_file(tmp_path):
  with (tmp_path / 'a.jsonl').open('wb') as file:
    for _ in range(200):
      file.write(b'{"text": "%s"}\n' % (b'x' * 2**16))
  tracemalloc.start()
  found = opened(f'{tmp_path}/a.jsonl')
  assert len(found.read(199)) > 2**16 and found.place(199).endswith('line 200')
  assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
  tracemalloc.stop()
