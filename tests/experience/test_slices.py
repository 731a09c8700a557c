"""Slices of a batch: whoever draws them, their rows are the same.

Processes are threads here: each is told which rows it holds, and they meet
where processes would.
"""
import collections
import json
import threading

import jax
import numpy as np
import pytest

from rlft import pulse
from rlft.experience import conversations
from rlft.ops import dealing, permutation
from tests.experience import test_conversations as data

ROWS, COUNT = 8, 24  # of a batch, and examples of the file
LAYOUTS = {  # rows of each process, and slices
    'alone': ([range(8)], 4),
    'two': ([range(4), range(4, 8)], 4),
    'four': ([range(0, 2), range(2, 4), range(4, 6), range(6, 8)], 4),
    'a slice each of two': ([range(0, 2), range(2, 8)], 4),
    'both the same': ([range(8), range(8)], 4),
    'two and two the same': ([range(4), range(4), range(4, 8), range(4, 8)], 4),
    'one slice of all': ([range(4), range(4, 8)], 1),
    'slices of rows of several': (
        [range(0, 2), range(2, 4), range(4, 6), range(6, 8)], 2)}


@pytest.fixture
def path(tmp_path):
  return data.write(tmp_path / 'a.jsonl', data.talks('qwen2', COUNT))


@pytest.fixture
def number(path):
  """What is rendered -> the number of its record."""
  with open(path, 'rb') as file:
    said = [conversations.parse(line).messages for line in file]
  return {json.dumps(messages): i for i, messages in enumerate(said)}


def watched(path, drawn, **options):
  """A source; the messages of every example that is rendered go to `drawn`."""
  words = data.words('qwen2')

  def render(messages, tools=None):
    drawn.append(json.dumps(messages))
    return words.render(messages, tools)

  return conversations.make(
      tokenizer=words._replace(render=render), seed=3, files=path,
      **dict(rows=ROWS, length=data.LENGTH) | options)


def processes(monkeypatch, held, run):
  """What run(process) gives, of a thread for each process."""
  here, given = threading.local(), [None] * len(held)
  meet = threading.Barrier(len(held), timeout=60)
  ended = [None] * len(held)

  def largest(x):
    given[here.process] = x
    meet.wait()
    found = np.max(given, axis=0)
    meet.wait()
    return found

  def begin(process):
    here.process = process
    try:
      ended[process] = run(process)
    except BaseException:
      meet.abort()
      raise

  monkeypatch.setattr(
      dealing, 'held', lambda count: list(held[here.process]))
  monkeypatch.setattr(dealing, 'largest', largest)
  threads = [threading.Thread(target=begin, args=[i])
             for i in range(len(held))]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return ended


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('length, packed', [
    (data.LENGTH, True), (100, True), (100, False)])
def test_processes_make_the_batches_of_one_and_draw_no_others(
    layout, length, packed, path, number, monkeypatch):
  held, slices = LAYOUTS[layout]
  options = dict(length=length, packed=packed, slices=slices)
  want = list(data.batches(watched(path, [], **options), 4))
  drawn = [[] for _ in held]
  found = processes(monkeypatch, held, lambda process: list(data.batches(
      watched(path, drawn[process], **options), 4)))
  for process, rows in enumerate(held):
    for (batch, said, state), (whole, *told) in zip(
        found[process], want, strict=True):
      assert [said, state] == told
      np.testing.assert_array_equal(batch.tokens[rows], whole.tokens[rows])
      np.testing.assert_array_equal(batch.mask[rows], whole.mask[rows])
    mine = {row * slices // ROWS for row in rows}
    wanted = collections.Counter(
        permutation.at(g + slices * i, COUNT, 3) for g in mine
        # and the first of the next batch, which did not fit
        for i in range(want[-1][2]['next'][g] + packed))
    assert collections.Counter(number[x] for x in drawn[process]) == wanted
  assert length > 100 or want[-1][2]['too_long'] > 0


@pytest.mark.parametrize('slices', [1, 2, 8])
def test_slices_share_every_epoch_out_among_them(slices, path):
  """Each example once an epoch, whatever its slice; metrics of the whole."""
  options = dict(seed=3, length=600)
  made = data.source('qwen2', path, rows=ROWS, slices=slices, **options)
  rows, examples = collections.Counter(), 0
  for batch, said, state in data.batches(made, 12):
    examples += said['examples']
    rows.update(batch.tokens[row, start:stop].tobytes()
                for row, start, stop in data.documents('qwen2', batch))
    real = batch.tokens != data.words('qwen2').pad
    assert said['tokens'] == real.sum() and said['fill'] == real.mean()
    assert said['epoch'] == sum(state['next']) / COUNT
    assert sum(rows.values()) == examples == sum(state['next'])
  alone = [batch.tokens[0][batch.tokens[0] != data.words('qwen2').pad].tobytes()
           for batch, _, _ in data.batches(data.source(
               'qwen2', path, rows=1, packed=False, **options),
               slices * max(state['next']))]
  assert rows == collections.Counter(
      alone[g + slices * i] for g in range(slices)
      for i in range(state['next'][g]))


def test_a_run_goes_on_from_its_cursors_and_draws_nothing_again(path):
  run = list(data.batches(watched(path, [], slices=4), 8))
  assert len({*run[3][2]['next']}) > 1  # slices go on at paces of their own
  drawn = []
  made = watched(path, drawn, slices=4)
  for at, (batch, said, state) in zip(
      run[4:], data.batches(made, 4, run[3][2]), strict=True):
    jax.tree.map(np.testing.assert_array_equal, batch, at[0])
    assert (said, state) == at[1:]
  assert len(drawn) == sum(run[7][2]['next']) - sum(run[3][2]['next']) + 4


def test_an_older_checkpoint_is_of_one_slice(path):
  made = data.source('qwen2', path)
  one, two = list(data.batches(made, 2))
  older = dict(one[2], next=one[2]['next'][0])
  (batch, _, state), = data.batches(made, 1, older)
  np.testing.assert_array_equal(batch.tokens, two[0].tokens)
  assert state == two[2]
  with pytest.raises(ValueError, match='slices=1: set it back'):
    made = data.source('qwen2', path, slices=3)
    made.next(older, None, {}, None)


@pytest.mark.parametrize('slices', [0, -1, 3, 16])
def test_rows_that_do_not_split_into_slices_are_refused(path, slices):
  with pytest.raises(ValueError, match=f'8 rows do not split into {slices} sl'):
    data.source('qwen2', path, rows=8, slices=slices)


def test_an_example_that_fits_is_waited_for(tmp_path):
  """A slice may meet more others in a row than there are."""
  rows = [{'prompt': '1 ' * 90, 'completion': str(i)} for i in range(9)]
  path = data.write(
      tmp_path / 'a.jsonl', [*rows, {'prompt': '1', 'completion': '2'}])
  made = data.source('qwen2', path, rows=8, slices=8, length=100, packed=False)
  (batch, said, state), = data.batches(made, 1)
  assert said['examples'] == 8 and max(state['next']) > 10
  assert len({row.tobytes() for row in batch.tokens}) == 1
  data.write(tmp_path / 'a.jsonl', rows)
  made = data.source('qwen2', path, rows=8, slices=8, length=100)
  with pytest.raises(ValueError, match='no example has as few tokens as 100'):
    list(data.batches(made, 1))


@pytest.mark.parametrize('count', [1, 2])
def test_processes_that_draw_unlike_have_as_many_beats(
    count, path, monkeypatch):
  """They agree on a beat at which to end: one of several makes none here."""
  monkeypatch.setattr(jax, 'process_count', lambda: count)
  beats = []
  with pulse.listening(lambda: beats.append(1)):
    *_, (_, said, _) = data.batches(watched(path, [], length=100), 3)
  assert said['too_long'] > 0
  assert len(beats) == (said['too_long'] if count == 1 else 0)
