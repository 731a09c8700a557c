"""Conversations through a model's own chat template.

Text is cut where sampling would cut it: the prompt up to where an assistant's
completion begins, the completion with its end token, what follows. Each piece
is tokenised by itself, so what a policy samples is what it is trained on; the
places come from rendering the conversation message by message, never from a
search for names of roles.
"""
import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

Message = Mapping[str, Any]  # role, content and, with tools, tool_calls
DATE = '26 Jul 2024'  # what a template is told is today
GIVEN = ('messages', 'tools', 'documents', 'add_generation_prompt',
         'bos_token', 'eos_token', 'pad_token')
PROMPT, REPLY = 'promptsplaceholder', 'replysplaceholder'  # nothing to trim


class Rendered(NamedTuple):
  """A conversation: as `apply_chat_template` writes it, and as tokens."""
  text: str
  tokens: Int[np.ndarray, 'T']
  mask: Bool[np.ndarray, 'T']  # True on what the assistant wrote, and its ends


class Template(NamedTuple):
  """A template with its variables filled in."""
  text: Callable[..., str]  # (messages, tools=None, generate=False)
  encode: Callable[[str], list[int]]  # adds no special tokens
  ends: tuple[str, ...]  # the tokens that end a completion, as text
  place: str  # the file it is from, for complaints


def bind(
    chat: Any, place: str, variables: Mapping[str, Any],
) -> Callable[..., str]:
  """text(messages, tools=None, generate=False) of a transformers tokenizer.

  Today is `date_string`, DATE by default, whatever the clock says. ValueError
  for a template that asks the clock alone, for a variable that it does not
  read or that follows from the messages, and, when called, for messages that
  it refuses.
  """
  source = source_of(chat)
  for name in variables:
    if name in GIVEN:
      raise ValueError(f'config.chat.{name} follows from the rest of the '
                       'config: leave it out')
    if not re.search(rf'\b{re.escape(name)}\b', source):
      raise ValueError(
          f'config.chat.{name}: the chat template of {place} reads no such '
          'variable; leave it out')
  if 'strftime_now' in source and 'date_string' not in source:
    raise ValueError(
        f'the chat template of {place} asks the clock (strftime_now) and reads '
        'no date_string: prompts would change from day to day; write the day')
  given = {'date_string': DATE, **variables}
  try:
    datetime.datetime.strptime(given['date_string'], '%d %b %Y')
  except (TypeError, ValueError) as error:
    raise ValueError(f'config.chat.date_string is {given["date_string"]!r}: '
                     f'write a day as {DATE!r}') from error

  def text(messages, tools=None, generate=False):
    try:
      return chat.apply_chat_template(
          list(messages), tools=tools, tokenize=False,
          add_generation_prompt=generate, **given)
    except Exception as error:  # whatever the template raises, or Jinja
      said = ' '.join(str(error).split())
      raise ValueError(
          f'the chat template of {place} refuses the messages with roles '
          f'{", ".join(str(m.get("role")) for m in messages) or "none"}: '
          f'{said or type(error).__name__}') from error

  return text


def source_of(chat: Any) -> str:
  """The Jinja source of a tokenizer's template, or of all of several."""
  named = chat.chat_template
  return '\n'.join(named.values()) if isinstance(named, dict) else named


def end_of_turn(text: Callable, encode: Callable, chat: Any, place: str) -> int:
  """The token that the template closes an assistant's turn with.

  Found by rendering a reply, not by its name. ValueError when the template
  drops the reply, does not begin it where a completion begins, or closes it
  with no token of its own.
  """
  before = text([user(PROMPT)], generate=True)
  whole = text([user(PROMPT), assistant(REPLY)])
  at = whole.find(REPLY, len(before))
  if not whole.startswith(before) or at < 0:
    raise ValueError(
        f'the chat template of {place} does not go on from its generation '
        "prompt with an assistant's content: a mask would count the wrong "
        'tokens')
  added = chat.added_tokens_decoder
  header = encode(whole[len(before):at])  # or the template's own thoughts
  if any(token in added and added[token].special for token in header):
    raise ValueError(
        f'the chat template of {place} does not read add_generation_prompt: a '
        "completion would begin with the assistant's header")
  after = whole[at + len(REPLY):]
  first = encode(after)[:1]
  if not first or first[0] not in added or not after.startswith(
      added[first[0]].content):
    raise ValueError(
        f"the chat template of {place} closes an assistant's turn with "
        f'{after!r}: no token by which a completion would end')
  return first[0]


def user(content: str) -> Message:
  """A message of the user."""
  return {'role': 'user', 'content': content}


def assistant(content: str) -> Message:
  """A message of the assistant."""
  return {'role': 'assistant', 'content': content}


def render(
    template: Template, messages: Sequence[Message],
    tools: Sequence[Any] | None = None,
) -> Rendered:
  """A conversation as text, tokens and the mask of all assistant turns.

  ValueError when no message is the assistant's, or when the template writes a
  turn otherwise once others follow: no row could then hold what was sampled.
  """
  whole = template.text(messages, tools)
  pieces, at = [], 0
  for i, message in enumerate(messages):
    if message['role'] != 'assistant':
      continue
    through, start, stop = turn(template, messages[:i + 1], tools)
    if start < at or not whole.startswith(through[:stop]):
      raise ValueError(
          f'the chat template of {template.place} rewrites message {i} once '
          'others follow it: render conversations that end there, one row each')
    pieces += [(whole[at:start], False), (whole[start:stop], True)]
    at = stop
  pieces.append((whole[at:], False))
  tokens, mask = [], []
  for text, counts in pieces:
    new = template.encode(text)
    tokens += new
    mask += [counts] * len(new)
  if not any(mask):
    raise ValueError(
        f'the mask is empty under the chat template of {template.place}: none '
        'of the messages is the assistant\'s')
  return Rendered(whole, np.array(tokens, np.int32), np.array(mask, bool))


def turn(
    template: Template, messages: Sequence[Message],
    tools: Sequence[Any] | None = None,
) -> tuple[str, int, int]:
  """The text, and where in it the last message, an assistant's, was written.

  From where its completion begins to after its end token.
  """
  before = template.text(messages[:-1], tools, generate=True)
  whole = template.text(messages, tools)
  if not whole.startswith(before):
    raise ValueError(
        f'the chat template of {template.place} is not consistent: what it '
        f'writes before message {len(messages) - 1} changes with it')
  start = len(before)
  stops = [at + len(end) for end in template.ends
           if (at := whole.rfind(end, start)) >= 0]
  if not stops:
    raise ValueError(
        f'the chat template of {template.place} writes message '
        f'{len(messages) - 1} without an end: none of '
        f'{" ".join(template.ends)} is in {whole[start:]!r}')
  return whole, start, max(stops)


def opening(template: Template, prompt: str) -> list[int]:
  """A user's prompt, up to where the completion begins."""
  return template.encode(template.text([user(prompt)], generate=True))


def completion(template: Template, text: str) -> list[int]:
  """A completion as the template writes it, its end token included."""
  whole, start, stop = turn(template, [user(PROMPT), assistant(text)])
  return template.encode(whole[start:stop])


def between(template: Template, end: str, feedback: str) -> list[int]:
  """What stands between a completion's stop token and the next completion.

  The feedback is a turn of the user. Earlier turns stay the tokens that they
  were, even under a template that would write them anew (Qwen3's drops their
  thoughts).
  """
  whole = template.text(
      [user(PROMPT), assistant(REPLY), user(feedback)], generate=True)
  _, found, after = whole.partition(REPLY + end)
  if not found:
    raise ValueError(
        f'the chat template of {template.place} closes an earlier turn '
        f'without {end}')
  return template.encode(after)
