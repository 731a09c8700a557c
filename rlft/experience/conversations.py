"""Conversations of files, shuffled anew every epoch, several to a row.

What comes next follows from the seed, the files and the number of examples
that came before, which is all that a checkpoint holds: a resumed run goes
straight on. The rows of a batch are cut into slices, each of which draws
examples of its own. Every process reads every file, but renders and tokenises
only the slices that have rows of its devices; the batch is the same however
many processes there are.
"""
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rlft import episodes, parts, paths, pulse, records
from rlft.ops import dealing, permutation
from rlft.tokenizer import Tokenizer
from rlft.types import Batch, Source

ROLES = ('system', 'developer', 'user', 'assistant', 'tool', 'ipython')
FIELDS = ('messages', 'prompt', 'completion', 'tools')
FORMS = ('{"messages": [{"role": ..., "content": ...}, ...]} or '
         '{"prompt": ..., "completion": ...}')


class Conversation(NamedTuple):
  """What a chat template is given."""
  messages: list[dict[str, Any]]
  tools: list[Any] | None


class Row(NamedTuple):
  """The tokens of one or more examples, and which of them count."""
  tokens: list[int]
  mask: list[bool]


class Cursor(NamedTuple):
  """A place among the examples of a slice, of all epochs."""
  next: int
  too_long: int  # of those before


def make(
    *, tokenizer: Tokenizer, seed: int, files: str | Sequence[str], rows: int,
    length: int, packed: bool = True, slices: int = 1,
) -> Source:
  """Batches of (rows, length); the loss is on all that assistants wrote.

  `files` are JSON Lines or Parquet, here or in a bucket (`records.find`): a
  conversation each line or row, as FORMS, perhaps with `tools`; other fields
  are left alone. With `packed` a row has as many examples as fit, none of which
  sees another (`ops/attention.py`); without it one. An example of more than
  `length` tokens is left out, never cut.

  Slice g of `slices` has rows / slices rows in a row, and of the examples of
  all epochs, one after the other, those whose number is g modulo `slices`. A
  process draws the slices that its rows are of: with as many as there are
  processes, or a multiple, it draws for no other. The fewer rows a slice has,
  the less full they are; with other slices the batches are others.

  All metrics are of the whole batch: `too_long` counts what was left out since
  the run began, `epoch` how often all have been drawn, and `fill` is the share
  that is no padding. ValueError for rows that do not split into slices; also of
  `next`, for a record that is no conversation, with file and line, and for
  files or slices that have changed.
  """
  if slices < 1 or rows % slices:
    raise ValueError(f'{rows} rows do not split into {slices} slices: set '
                     f'experience.slices to a divisor of {rows}')
  with parts.named('experience.files'):
    found = records.open_all(files, FIELDS, parse)
  draw = drawing(found, tokenizer, seed=seed, slices=slices)
  each = rows // slices

  def next_batch(state, params, metrics, key):
    del params, metrics, key
    starts = resumed(state, found.digest, slices)
    filled = [Row([], [])] * rows  # empty where only others have them
    counts = np.zeros((slices, 3), np.int32)
    for g in sorted({row // each for row in dealing.held(rows)}):
      filled[g * each:(g + 1) * each], at = fill(
          functools.partial(draw, g), Cursor(starts[g], 0), rows=each,
          length=length, packed=packed,
          between=[tokenizer.pad] if tokenizer.bos is None else [],
          patience=len(found),
          hope=lambda: has_short(found, tokenizer, length))
      counts[g, :2] = at.next - starts[g], at.too_long
    batch = Batch(
        episodes.pack([row.tokens for row in filled], length=length,
                      fill=tokenizer.pad, dtype=np.int32),
        episodes.pack([row.mask for row in filled], length=length, fill=False,
                      dtype=bool))
    real = batch.tokens != tokenizer.pad
    counts[:, 2] = real.reshape(slices, -1).sum(axis=1)
    moved, too_long, tokens = dealing.largest(counts).T.tolist()
    state = {'next': [a + b for a, b in zip(starts, moved, strict=True)],
             'too_long': state['too_long'] + sum(too_long),
             'files': found.digest}
    return state, dealing.dealt(batch), {
        'tokens': sum(tokens), 'fill': sum(tokens) / real.size,
        'examples': sum(moved) - sum(too_long),
        'epoch': sum(state['next']) / len(found),
        'too_long': state['too_long']}

  return Source(lambda: {'next': [0] * slices, 'too_long': 0,
                         'files': found.digest}, next_batch)


def drawing(
    found: records.Records, tokenizer: Tokenizer, *, seed: int, slices: int,
) -> Callable[[int, int], Row]:
  """draw(g, i): example i of slice g, from 0.

  The last one of each slice is kept, as it may begin the next batch.
  """
  last = {}

  def draw(g, i):
    if g not in last or last[g][0] != i:
      at = permutation.at(g + slices * i, len(found), seed)
      last[g] = i, record(found, at, tokenizer)
    return last[g][1]

  return draw


def resumed(state: dict[str, Any], digest: str, slices: int) -> list[int]:
  """Where each slice goes on; ValueError if this is not the run that began."""
  if state['files'] != digest:
    raise ValueError(
        'experience.files are not what they were when this run began: put '
        'them back, or take another --run_dir')
  starts = np.ravel(state['next']).tolist()  # one number, in older checkpoints
  if len(starts) != slices:
    raise ValueError(f'this run began with experience.slices={len(starts)}: '
                     'set it back, or take another --run_dir')
  return starts


def record(
    found: records.Records, i: int, tokenizer: Tokenizer) -> Row:
  """Record i as an example; ValueError names its file and line."""
  try:
    return example(tokenizer, parse(found.read(i)))
  except ValueError as error:
    raise ValueError(f'{found.place(i)}: {error}') from error


def has_short(
    found: records.Records, tokenizer: Tokenizer, length: int) -> bool:
  """Whether any example has as few tokens as this."""
  for i in range(len(found)):
    beat()
    if len(record(found, i, tokenizer).tokens) <= length:
      return True
  return False


def beat() -> None:
  """A beat of the pulse, unless others would have to have as many of them."""
  if jax.process_count() == 1:
    pulse.beat()


def fill(
    draw: Callable[[int], Row], at: Cursor, *, rows: int, length: int,
    packed: bool, between: list[int], patience: int, hope: Callable[[], bool],
) -> tuple[list[Row], Cursor]:
  """Rows of up to `length` tokens, and where the next batch begins.

  Each example goes, in order, where it leaves the least room; the first that
  fits nowhere begins the next batch. `hope` is asked, after `patience` examples
  in a row that are too long, whether any is not; if none, ValueError.
  """
  filled, refused = [], 0
  while packed or len(filled) < rows:
    new = draw(at.next)
    if len(new.tokens) > length:
      beat()
      refused += 1
      if refused % patience == 0 and not hope():
        raise ValueError(f'no example has as few tokens as {length}: raise '
                         'experience.length')
      at = Cursor(at.next + 1, at.too_long + 1)
      continue
    fits = [row for row in filled if packed and len(row.tokens) + len(
        between) + len(new.tokens) <= length]
    if fits:
      row = max(fits, key=lambda row: len(row.tokens))
      row.tokens.extend(between + new.tokens)
      row.mask.extend([False] * len(between) + new.mask)
    elif len(filled) < rows:
      filled.append(new)
    else:
      break
    at, refused = at._replace(next=at.next + 1), 0
  return filled, at


def example(tokenizer: Tokenizer, said: Conversation) -> Row:
  """A conversation as a document of its own.

  ValueError for one that the tokenizer's template refuses, or that holds words
  without a token or the tokens by which documents are told apart.
  """
  for message in said.messages:
    missing = tokenizer.unknown(message.get('content', ''))
    if missing:
      raise ValueError(
          f'the tokenizer has no token for {paths.shown(missing[0])}: take '
          'another tokenizer, or other words')
  if tokenizer.render is None:
    row = plain(tokenizer, said)
  else:
    rendered = tokenizer.render(said.messages, said.tools)
    row = Row(rendered.tokens.tolist(), rendered.mask.tolist())
  for token in {tokenizer.pad, tokenizer.bos} & set(row.tokens[1:]):
    raise ValueError(
        f'its text has the token {token}, which stands between documents: '
        'take it out')
  row.mask[0] = False  # nothing says what comes first
  return row


def plain(tokenizer: Tokenizer, said: Conversation) -> Row:
  """One of user and assistant in turn, by a tokenizer without a template."""
  roles = [message['role'] for message in said.messages]
  turns = len(roles) // 2
  if said.tools or roles != ['user', 'assistant'] * turns:
    raise ValueError(
        'the tokenizer has no chat template: it takes turns of user and '
        'assistant, the last being the assistant\'s, and no tools')
  row = Row([], [])
  for i, message in enumerate(said.messages):
    written = message['role'] == 'assistant'
    encode = tokenizer.completion if written else (
        tokenizer.between if i else tokenizer.opening)
    tokens = encode(message['content'])
    row.tokens.extend(tokens)
    row.mask.extend([written] * len(tokens))
  return row


def parse(data: bytes) -> Conversation:
  """A record as a conversation; ValueError says what it lacks."""
  try:
    found = json.loads(data.decode('utf-8-sig'))  # of bytes it takes more
  except json.JSONDecodeError as error:
    raise ValueError(
        f'no JSON: {error.msg} at character {error.pos + 1}; write '
        f'{FORMS}') from error
  except (ValueError, RecursionError) as error:  # no UTF-8; or far too deep
    raise ValueError(f'no JSON: write {FORMS} in UTF-8') from error
  if not isinstance(found, dict):
    raise ValueError(f'no JSON object: write {FORMS}')
  has = [key for key in FIELDS[:3] if found.get(key) is not None]
  if has == ['prompt', 'completion']:
    messages = [{'role': 'user', 'content': found['prompt']},
                {'role': 'assistant', 'content': found['completion']}]
  elif has == ['messages'] and isinstance(found['messages'], list):
    messages = found['messages']
  else:
    raise ValueError(f'no conversation: write {FORMS}')
  if b'\\u' in data:  # half of a character can be written in no other way
    try:
      json.dumps(found, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError) as error:
      raise ValueError('half a character (a lone surrogate, \\ud800 to '
                       '\\udfff): write it whole') from error
  tools = found.get('tools')
  if not isinstance(tools, list | None):
    raise ValueError('tools are no list: write one of JSON schemas')
  said = [message(given, i) for i, given in enumerate(messages)]
  if not any(one['role'] == 'assistant' for one in said):
    raise ValueError('no message is the assistant\'s: there is nothing to '
                     'learn; leave it out')
  return Conversation(said, tools or None)


def message(given: Any, i: int) -> dict[str, Any]:
  """Message `i`, without what is null; else ValueError."""
  if not isinstance(given, dict):
    raise ValueError(f'message {i} is no object with role and content')
  found = {key: value for key, value in given.items() if value is not None}
  if found.get('role') not in ROLES:
    raise ValueError(
        f'message {i} is of the role {paths.shown(repr(found.get("role")))}; '
        f'known: {", ".join(ROLES)}')
  if 'content' not in found and found['role'] == 'assistant' and found.get(
      'tool_calls'):
    found['content'] = ''
  content = found.get('content')
  if not isinstance(content, str):
    raise ValueError(f'message {i} has no content that is text')
  return found
