"""Conversations in rows: each as if it were alone, and each once an epoch."""
import functools
import itertools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlft import binding, policy, tokenizer, train
from rlft.experience import conversations
from rlft.models import transformer
from rlft.objectives import sft
from rlft.training import checkpoint, metrics
from rlft.types import Source
from tests import tiny
from tests.command import refused

LENGTH, ROWS = 200, 3
SHAPE = dict(width=32, layers=2, heads=4, kv_heads=2, hidden=64)
KINDS = {  # words, and what the model has beside SHAPE
    'begin': ('asset:points24', {}),
    'llama3': ('asset:llama3_chat', {}),
    'qwen2': ('asset:qwen2_chat', dict(qkv_bias=True, epsilon=1e-6))}
# rlft run --config of a file that only a config is in
FILE = '''
from tests.experience import test_conversations

def get_config(variant=''):
  config = test_conversations.config('', 2)
  if variant:
    config.experience.seed = 1
  return config
'''


@functools.cache
def words(kind):
  return tokenizer.load(KINDS[kind][0])


def say(*contents, roles=('user', 'assistant')):
  return [{'role': roles[i % 2], 'content': content}
          for i, content in enumerate(contents)]


def talks(kind, count=12):
  """Of different lengths, with one or two completions that count."""
  for i in range(count):
    numbers = ' '.join(str(j % 14) for j in range(i + 1))
    answer = f'{numbers} : {i + 2}'
    if i % 3 == 1:
      yield {'prompt': f'24 cards {numbers} :', 'completion': answer}
    elif i % 3 == 2 and kind != 'begin':
      yield {'id': i, 'messages': [
          {'role': 'system', 'content': f'no {i}', 'name': None},
          *say(numbers, answer, 'no 1', f'numbers {i}')]}
    else:
      yield {'messages': say(f'24 {numbers}', answer, 'illegal', f'{i} : 2')}


def write(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


def source(kind, files, seed=0, rows=ROWS, length=LENGTH, **options):
  return conversations.make(tokenizer=words(kind), seed=seed, files=files,
                            rows=rows, length=length, **options)


@pytest.fixture
def files(tmp_path):
  return lambda kind, **options: write(
      tmp_path / f'{kind}.jsonl', talks(kind, **options))


def batches(made, count, state=None):
  """(batch, metrics, the state after it as a checkpoint has it)."""
  state = state or made.init()
  for _ in range(count):
    state, batch, said = made.next(state, None, {}, None)
    state = json.loads(json.dumps(state))
    yield batch, said, state


def documents(kind, batch):
  """(row, first column, one past the last) of every example of a batch."""
  for i, row in enumerate(batch.tokens):
    real = np.r_[False, row != words(kind).pad, False]
    starts = np.flatnonzero(real[1:] & ~real[:-1])
    stops = np.flatnonzero(~real[1:] & real[:-1])
    if kind == 'begin':
      starts = np.flatnonzero(row == words(kind).bos)
      stops = [*starts[1:], stops[-1]]
    yield from ((i, *map(int, at)) for at in zip(starts, stops, strict=True))


@pytest.mark.parametrize('kind', KINDS)
def test_an_example_beside_others_is_as_it_is_alone(kind, files):
  (batch, _, _), = batches(source(kind, files(kind)), 1)
  found = list(documents(kind, batch))
  assert len(found) >= 2 * ROWS
  alone = np.full((len(found), LENGTH), words(kind).pad, np.int32)
  counts = np.zeros(alone.shape, bool)
  for i, (row, start, stop) in enumerate(found):
    alone[i, :stop - start] = batch.tokens[row, start:stop]
    counts[i, :stop - start] = batch.mask[row, start:stop]
  model = transformer.make(
      shape=SHAPE | KINDS[kind][1], vocabulary=words(kind).vocabulary,
      pad=words(kind).pad, bos=words(kind).bos)
  params = tiny.noised(
      {'policy': transformer.initialise(model, jax.random.key(0))}, 0.1)

  @jax.jit
  def score(tokens, mask):
    out = policy.forward(model, params, tokens)
    part = lambda rows: sft.loss(
        jax.tree.map(lambda x: x[rows], out), batch._replace(mask=mask[rows]))
    return out.log_probs, part(slice(ROWS)), part(slice(ROWS, None))

  scored, (loss, _), (other, said) = score(
      np.concatenate([batch.tokens, alone]),
      np.concatenate([batch.mask, counts]))
  together, apart = scored[:ROWS], scored[ROWS:]
  assert said['completion_tokens'] == batch.mask.sum() > 100
  np.testing.assert_allclose(loss, other, rtol=1e-5)
  for i, (row, start, stop) in enumerate(found):
    np.testing.assert_allclose(
        together[row, start + 1:stop], apart[i, 1:stop - start],
        rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_the_loss_is_on_what_assistants_wrote(kind, files):
  """All of it and the token that ends it, of every example of the file."""
  replies = {
      tuple(m['content'] for m in conversations.parse(
          json.dumps(row).encode()).messages if m['role'] == 'assistant')
      for row in talks(kind)}
  made, met = source(kind, files(kind), rows=8), set()
  for batch, _, _ in batches(made, 2):
    for row, start, stop in documents(kind, batch):
      tokens, mask = batch.tokens[row, start:stop], batch.mask[row, start:stop]
      edges = np.flatnonzero(np.diff(np.r_[0, mask, 0]))
      spans = [tokens[a:b] for a, b in edges.reshape(-1, 2)]
      assert all(span[-1] == words(kind).end for span in spans)
      met.add(tuple(
          words(kind).decode(span.tolist()).strip() for span in spans))
  assert met == replies
  assert not batch.mask[batch.tokens == words(kind).pad].any()


@pytest.mark.parametrize('kind', ['begin', 'qwen2'])
@pytest.mark.parametrize('packed', [True, False])
def test_an_epoch_has_every_example_once(kind, packed, files):
  path = files(kind)
  drawn, ends = [], [0]
  for batch, said, state in batches(source(kind, path, packed=packed), 14):
    rows = [batch.tokens[row, start:stop].tobytes()
            for row, start, stop in documents(kind, batch)]
    drawn += rows
    ends.append(len(drawn))
    assert said['examples'] == len(rows)
    assert state['next'] == [len(drawn)]
    assert packed or len(rows) == ROWS
    assert said['epoch'] == len(drawn) / 12
  order = [batch.tokens[0][batch.tokens[0] != words(kind).pad].tobytes()
           for batch, _, _ in batches(
               source(kind, path, packed=False, rows=1), len(drawn))]
  for start, stop in itertools.pairwise(ends):  # but among the rows
    assert sorted(drawn[start:stop]) == sorted(order[start:stop])
  epochs = [tuple(order[i:i + 12]) for i in range(0, len(order) - 11, 12)]
  assert len(set(epochs)) == len(epochs) >= 3
  assert all(len(set(epoch)) == 12 and set(epoch) == set(epochs[0])
             for epoch in epochs)


def test_what_comes_next_follows_from_the_state_and_the_seed(files):
  path = files('qwen2')
  run = list(batches(source('qwen2', path), 7))
  for i, (_, _, state) in enumerate(run[:-1]):
    (batch, said, _), = batches(source('qwen2', path), 1, state)
    jax.tree.map(np.testing.assert_array_equal, batch, run[i + 1][0])
    assert said == run[i + 1][1]
  (other, _, _), = batches(source('qwen2', path, seed=1), 1)
  assert (other.tokens != run[0][0].tokens).any()


@given(st.lists(st.integers(1, 40), min_size=8, max_size=60),
       st.integers(1, 5), st.booleans(), st.lists(st.just(0), max_size=1))
def test_rows_are_filled_in_order_and_none_is_too_long(
    sizes, rows, packed, between):
  length = 30
  draw = lambda i: conversations.Row(
      [i + 1] * sizes[i % len(sizes)], [True] * sizes[i % len(sizes)])
  if min(sizes) > length:
    with pytest.raises(ValueError, match='as few tokens as 30: raise'):
      conversations.fill(
          draw, conversations.Cursor(0, 0), rows=rows, length=length,
          packed=packed, between=between, patience=2 * len(sizes),
          hope=lambda: False)
    return
  at = conversations.Cursor(0, 0)
  for _ in range(3):
    start = at
    filled, at = conversations.fill(
        draw, at, rows=rows, length=length, packed=packed, between=between,
        patience=1, hope=lambda: True)
    assert len(filled) == rows
    assert all(0 < len(row.tokens) == len(row.mask) <= length for row in filled)
    taken = [i for i in range(start.next, at.next)
             if sizes[i % len(sizes)] <= length]
    assert at.too_long - start.too_long == at.next - start.next - len(taken)
    placed = [token - 1 for row in filled
              for token, _ in itertools.groupby(row.tokens) if token]
    assert sorted(placed) == taken
    if packed:  # the next example fits nowhere
      need = sizes[at.next % len(sizes)] + len(between)
      assert all(len(row.tokens) + need > length for row in filled)


def test_what_is_too_long_is_left_out_and_counted(files):
  path = files('qwen2')
  sizes = sorted(
      stop - start for batch, _, _ in batches(
          source('qwen2', path, rows=1, packed=False), 12)
      for _, start, stop in documents('qwen2', batch))
  made = source('qwen2', path, length=sizes[5], packed=False, rows=6)
  *_, (batch, said, state) = batches(made, 2)
  found = [stop - start for _, start, stop in documents('qwen2', batch)]
  assert max(found) <= sizes[5]
  assert state['next'] >= [12] and said['too_long'] == state['too_long']
  assert state['next'] == [12 + said['too_long']]
  with pytest.raises(ValueError, match='has as few tokens as 3: raise'):
    list(batches(source('qwen2', path, length=3), 1))


def test_tokens_and_their_share_are_counted(files):
  (batch, said, _), = batches(source('llama3', files('llama3')), 1)
  real = batch.tokens != words('llama3').pad
  assert said['tokens'] == real.sum() and said['fill'] == real.mean() > 0.6
  assert batch.tokens.dtype == np.int32 and batch.mask.dtype == bool


def test_a_table_gives_the_same_batches(tmp_path, files):
  table = pytest.importorskip('pyarrow')
  from pyarrow import parquet
  path = files('qwen2')
  parquet.write_table(
      table.Table.from_pylist([
          dict.fromkeys(conversations.FIELDS) | row for row in talks('qwen2')]),
      tmp_path / 'a.parquet')
  for one, other in zip(
      batches(source('qwen2', path), 4),
      batches(source('qwen2', str(tmp_path / 'a.parquet')), 4), strict=True):
    jax.tree.map(np.testing.assert_array_equal, one[0], other[0])
    assert one[1] == other[1]


GOOD = json.dumps({'messages': say('1 2', '3')})
BAD = {  # a line, and what is said of it when it is read
    '{"messages": [': 'no JSON: Expecting value at character 16; write {"mess',
    '\udcff': 'no JSON: ',
    '[' * 100_000: 'no JSON: write',
    '[1]': 'no JSON object',
    '{}': 'no conversation: write {"messages": ',
    '{"messages": null}': 'no conversation',
    '{"messages": "hello"}': 'no conversation',
    '{"prompt": "1"}': 'no conversation',
    '{"prompt": "1", "completion": "2", "messages": []}': 'no conversation',
    '{"prompt": "1", "completion": 2}': 'message 1 has no content that is text',
    '{"messages": []}': "no message is the assistant's",
    json.dumps({'messages': say('1')}): "no message is the assistant's",
    json.dumps({'messages': ['hello']}): 'message 0 is no object',
    json.dumps({'messages': say('1', '2', roles=('human', 'gpt'))}):
        "message 0 is of the role 'human'; known: system, developer, user, ass",
    json.dumps({'messages': [{'role': 'user\n'}]}):
        r"message 0 is of the role 'user\n'; known",
    json.dumps({'messages': [{'role': 'assistant', 'content': [1]}]}):
        'message 0 has no content that is text',
    json.dumps({'messages': say('1', 'half \ud800')}): 'half a character',
    json.dumps({'messages': say('1', '2'), 'tools': 'x'}): 'tools are no list'}
LATER = {  # and what only the tokenizer can say
    ('qwen2', json.dumps({'messages': say('1', '<|fim_pad|>')})):
        r'its text has the token \d+, which stands between documents',
    ('begin', json.dumps({'messages': say('1', '2 <s> 3')})):
        'its text has the token 1, which',
    ('begin', json.dumps({'messages': say('1', 'horse')})):
        'has no token for horse',
    ('begin', json.dumps({'messages': say('2', '1', roles=(
        'assistant', 'user'))})): 'has no chat template',
    ('begin', json.dumps({'messages': say('1', '2', '3')})):
        'has no chat template: it takes turns',
    ('begin', json.dumps({'messages': say('1', '2'), 'tools': [{}]})):
        'and no tools'}


@pytest.mark.parametrize('line', BAD, ids=range(len(BAD)))
def test_a_line_that_is_no_conversation_is_named(tmp_path, line):
  (tmp_path / 'a.jsonl').write_bytes(
      f'{GOOD}\n{line}\n'.encode(errors='surrogateescape'))
  with pytest.raises(ValueError, match=re.escape(
      f'files: {tmp_path}/a.jsonl line 2: {BAD[line]}')) as told:
    source('qwen2', str(tmp_path / 'a.jsonl'))
  assert '\n' not in str(told.value)


@pytest.mark.parametrize('kind, line', LATER)
def test_a_line_that_makes_no_row_is_named(tmp_path, kind, line):
  (tmp_path / 'a.jsonl').write_text(f'{GOOD}\n{line}\n')
  said = LATER[kind, line]
  with pytest.raises(ValueError, match=rf'a\.jsonl line 2: .*{said}'):
    list(batches(source(kind, str(tmp_path / 'a.jsonl')), 1))


def test_tools_reach_the_template(tmp_path, monkeypatch):
  """A call without any text, and what a tool says to it."""
  call = {'role': 'assistant', 'content': None, 'tool_calls': [{
      'type': 'function', 'function': {'name': 'add', 'arguments': {'a': 1}}}]}
  seen = []

  def render(messages, tools=None):
    seen.append((messages, tools))
    return words('qwen2').render(say('1', '2'))

  path = write(tmp_path / 'a.jsonl', [{'tools': [{'name': 'add'}], 'messages': [
      *say('1 + 1'), call, {'role': 'tool', 'content': '2'}, *say('2', roles=(
          'assistant',))]}])
  made = conversations.make(
      tokenizer=words('qwen2')._replace(render=render), seed=0, files=path,
      rows=1, length=30)
  list(batches(made, 1))
  messages, tools = seen[0]
  assert tools == [{'name': 'add'}]
  assert messages[1] == {**call, 'content': ''}


def config(path, num_steps=4):
  """SFT on a file, from fresh parameters, saved at every other step."""
  made = tiny.sft_config(num_steps)
  made.tokenizer, made.env, made.evals = 'asset:qwen2_chat', {}, {}
  made.experience = dict(
      name='conversations', files=path, rows=ROWS, length=LENGTH)
  return made


@functools.cache
def built(path):
  return binding.build(config(path))


def run(path, run_dir, monkeypatch, stop=None):
  """A run, of which a copy of the job is taken; interrupted in a step."""
  job, calls = built(path), []

  def next_batch(*args):
    calls.append(1)
    if len(calls) == stop:
      raise KeyboardInterrupt
    return job.source.next(*args)

  monkeypatch.setattr(binding, 'build', lambda config: job._replace(
      state=jax.device_put(jax.tree.map(jnp.copy, job.state),
                           jax.devices()[0]),
      source=Source(job.source.init, next_batch)))
  return train.run(config(path), run_dir)


def test_the_seed_is_that_of_the_run(files):
  path = files('qwen2')
  made = config(path)
  made.seed = 5
  bound = binding.build_source(made, None, words('qwen2'), {})
  (batch, _, _), = batches(bound, 1)
  (want, _, _), = batches(source('qwen2', path, seed=5), 1)
  np.testing.assert_array_equal(batch.tokens, want.tokens)


def test_a_run_goes_on_and_refuses_other_files(files, tmp_path, monkeypatch):
  path = files('qwen2')
  whole = run(path, tmp_path / 'whole', monkeypatch)
  with pytest.raises(KeyboardInterrupt):  # the first batch is drawn twice
    run(path, tmp_path / 'a', monkeypatch, stop=5)
  again = run(path, tmp_path / 'a', monkeypatch)
  assert [x.tobytes() for x in jax.tree.leaves(again.params)] == [
      x.tobytes() for x in jax.tree.leaves(whole.params)]
  told = [{row['step']: (row['tokens'], row['loss']) for row in metrics.read(
      tmp_path / name / 'metrics.jsonl')} for name in ('whole', 'a')]
  assert told[0] == told[1] and sorted(told[0]) == [1, 2, 3, 4]
  seal = checkpoint.seal.sealed(tmp_path / 'whole', 4)['source']
  assert seal['next'] > [12] and sorted(seal) == ['files', 'next', 'too_long']

  made = source('qwen2', write(tmp_path / 'b.jsonl', [*talks('qwen2', 11)]))
  with pytest.raises(ValueError, match='not what they were when this run bega'):
    made.next(seal, None, {}, None)


def test_the_command_refuses_before_a_directory_is_made(
    tmp_path, capfd, monkeypatch):
  (tmp_path / 'c.py').write_text(FILE)
  command = ['run', f'--config={tmp_path}/c.py', f'--run_dir={tmp_path}/run']
  for path, said in {
      '': 'there are no files', 'nowhere.jsonl': 'there is no file nowhere',
      write(tmp_path / 'a.jsonl', [1]): 'a.jsonl line 1: no JSON object',
      write(tmp_path / 'b.jsonl', [{'messages': say('1', '<|fim_pad|>')}]):
          'b.jsonl line 1: its text has the token'}.items():
    assert said in refused(
        [*command, f'--config.experience.files={path}'], capfd)
  assert 'config.experience.seed follows from' in refused(
      [f'--config={tmp_path}/c.py:seed' if 'c.py' in word else word
       for word in command], capfd)
  assert not (tmp_path / 'run').exists()
