"""Chat tokenizers: a local Hugging Face directory as `tokenizer.Tokenizer`'s.

Llama's, Qwen's and others' are read by what their files and their template
say; no family is known by name here.
"""
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlft.chat import files, template

# Special tokens that never stand in a row of text, best first.
PADS = ('<|finetune_right_pad_id|>', '<|fim_pad|>', '<|vision_pad|>', '<pad>',
        '<|pad|>', '[PAD]')
SPARE = re.compile('reserved|unused')


class Chat(NamedTuple):
  """A chat tokenizer, as functions and numbers."""
  encode: Callable[[str], list[int]]
  decode: Callable[[Iterable[int]], str]
  unknown: Callable[[str], list[str]]
  vocabulary: int  # logits of the model
  pad: int
  end: int
  stops: tuple[int, ...]
  template: template.Template
  digest: str


def load(folder: Path, variables: Mapping[str, Any]) -> Chat:
  """The tokenizer of a directory; `variables` are given to its template.

  ValueError, one line that names file and field, for what cannot be used.
  """
  chat = files.open_chat(folder)
  place = str(folder / files.SETTINGS)
  if (folder / 'chat_template.jinja').is_file():
    place = str(folder / 'chat_template.jinja')

  def encode(text):
    return chat.encode(text, add_special_tokens=False)

  text = template.bind(chat, place, variables)
  end = template.end_of_turn(text, encode, chat, place)
  stops = tuple(dict.fromkeys([*files.ends(folder, chat.eos_token_id), end]))
  logits, _ = sizes = files.rows(folder)
  vocabulary = fit(folder, chat, stops, *sizes)
  pad = padding(chat, stops, vocabulary, folder)
  return Chat(
      encode, functools.partial(decode, chat, frozenset(stops)),
      functools.partial(unknown, chat), vocabulary, pad, end, stops,
      template.Template(
          text, encode, tuple(map(chat.convert_ids_to_tokens, stops)), place),
      files.digest(folder, logits, sorted(stops), pad))


def decode(chat: Any, stops: frozenset[int], tokens: Iterable[int]) -> str:
  """Text as it was sampled, without stops and special tokens."""
  return chat.decode(
      [int(t) for t in tokens if int(t) not in stops],
      skip_special_tokens=True, clean_up_tokenization_spaces=False)


def unknown(chat: Any, text: str) -> list[str]:
  """The parts of a text that have no token; byte-level ones lack none."""
  nothing = chat.unk_token_id
  if nothing is None:
    return []
  found = chat(text, add_special_tokens=False, return_offsets_mapping=True)
  return [text[slice(*at)] for token, at in zip(
      found['input_ids'], found['offset_mapping'], strict=True)
      if token == nothing]


def fit(
    folder: Path, chat: Any, stops: Sequence[int], logits: int | None,
    further: int,
) -> int:
  """The number of logits; ValueError when tokens and model do not fit."""
  largest = max(chat.get_vocab().values())
  if logits is None:
    logits = largest + 1
  elif largest >= logits + further:
    raise ValueError(
        f'{folder / files.ARCHITECTURE}: vocab_size is {logits}, but '
        f'{files.TOKENIZER} has a token {largest}: they are of different '
        'models')
  if max(stops) >= logits:
    raise ValueError(
        f'{folder / files.GENERATION}: eos_token_id {max(stops)} is none of '
        f'the {logits} tokens')
  return logits


def padding(
    chat: Any, stops: Sequence[int], vocabulary: int, folder: Path) -> int:
  """A token that no row of text holds, and that the model has a row for.

  The tokenizer's own pad where it is nothing else as well, a special token
  without a use, or a row of the embedding that no token has.
  """
  added = {token.content: i for i, token in chat.added_tokens_decoder.items()}
  taken = {*stops, chat.bos_token_id, chat.eos_token_id, chat.unk_token_id}
  source = template.source_of(chat)
  spare = sorted((t for t in added if SPARE.search(t)), key=added.get)
  for token in (chat.pad_token, *PADS, *reversed(spare)):
    if (added.get(token, vocabulary) < vocabulary and token not in source
        and added[token] not in taken):
      return added[token]
  beyond = max(chat.get_vocab().values()) + 1
  if beyond < vocabulary:
    return beyond
  raise ValueError(
      f'{folder / files.SETTINGS}: pad_token is {chat.pad_token!r}, which rows '
      'may hold, and no special token is unused: add one to tokenizer.json '
      f'that the model has a row for (it has {vocabulary}), and name it there')
