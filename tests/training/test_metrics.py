"""One whole row per step, whatever happened to the file before."""
import json
import math

import jax
import jax.numpy as jnp
import pytest

from rlft.training import metrics, progress

ROWS = [{'step': n, 'loss': n / 2} for n in range(1, 5)]


@pytest.fixture
def log(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  for row in ROWS:
    metrics.append(path, row)
  return path


def test_rows_come_back(log):
  assert metrics.read(log) == ROWS


def test_a_torn_last_line_is_not_a_row(log):
  whole = log.read_text()
  for cut in range(1, len(json.dumps(ROWS[-1]))):
    log.write_text(whole[:-1 - cut])
    assert metrics.read(log) == ROWS[:-1]


def test_truncation_drops_what_is_beyond_and_what_is_torn(log):
  with log.open('a') as file:
    file.write('{"step": 2, "lo')
  metrics.truncate(log, 2)
  metrics.append(log, {'step': 3})
  assert metrics.read(log) == [*ROWS[:2], {'step': 3}]


def test_truncating_nothing_makes_nothing(tmp_path):
  metrics.truncate(tmp_path / 'none.jsonl', 3)
  assert not list(tmp_path.iterdir())


def test_what_is_not_finite_is_null():
  row = metrics.plain({'a': jnp.inf, 'b': math.nan, 'c': jnp.float32(2)})
  assert row == {'a': None, 'b': None, 'c': 2.0}


def test_a_writer_appends_rows_and_events(tmp_path):
  for start in (0, 1):  # a second run goes on after step 1
    writer = metrics.open_writer(tmp_path, start)
    row = metrics.write(writer, start + 1, {'loss': jnp.float32(1.5)})
    assert row == {'step': start + 1, 'loss': 1.5}
    metrics.write(writer, start + 2, {'loss': jnp.nan})
  assert metrics.read(tmp_path / 'metrics.jsonl') == [
      {'step': 1, 'loss': 1.5}, {'step': 2, 'loss': 1.5},
      {'step': 3, 'loss': None}]
  events = list((tmp_path / 'tensorboard').glob('events*'))
  assert events and all(b'loss' in e.read_bytes() for e in events)


def test_compilations_are_counted():
  counter = metrics.Compilations()
  double = jax.jit(lambda x: 2 * x)
  double(jnp.ones(3))
  once = counter.count
  assert once > 0
  double(jnp.ones(3))
  assert counter.count == once
  double(jnp.ones(5))
  assert counter.count > once


def test_progress_yields_every_item_and_tells_lines(monkeypatch, capsys):
  monkeypatch.setattr(progress, 'EVERY', 0.0)
  assert list(progress.track('abc', name='job', total=5, start=2)) == list(
      'abc')
  lines = capsys.readouterr().err.splitlines()
  assert [line.split(',')[0] for line in lines] == ['job: 3/5', 'job: 4/5']


def test_progress_is_a_bar_on_a_terminal(monkeypatch, capsys):
  monkeypatch.setattr('sys.stderr.isatty', lambda: True)
  assert list(progress.track('abc', name='job', total=3)) == list('abc')
  assert 'job:' in capsys.readouterr().err
