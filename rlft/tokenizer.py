"""Text to tokens and back: words, characters, or a model's own chat format."""
import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from rlft import chat, paths
from rlft.chat import template

ASSETS = Path(__file__).parent / 'assets'
SPECIAL = ('<pad>', '<s>', '</s>', '<unk>')


class Tokenizer(NamedTuple):
  """`encode` adds no special tokens; `decode` drops them.

  A conversation is opening(prompt), completion, between(feedback), completion,
  and so on: a demonstration's completions are `completion(text)`, a policy's
  are the tokens that it sampled.
  """
  encode: Callable[[str], list[int]]
  decode: Callable[[list[int]], str]
  unknown: Callable[[str], list[str]]  # the words of a text without a token
  vocabulary: int  # logits of the model
  pad: int  # in no row but as padding
  bos: int | None  # where a document begins; None: after padding
  end: int  # what a demonstration is closed with
  digest: str  # sha256 of the files: what a checkpoint was trained with
  stops: tuple[int, ...]  # every token that ends a completion
  opening: Callable[[str], list[int]]  # prompt -> up to the completion
  completion: Callable[[str], list[int]]  # a demonstration, `end` included
  between: Callable[[str], list[int]]  # feedback -> from stop to completion
  cut: tuple[int, ...]  # closes a completion that met no stop, uncounted
  render: Callable[..., template.Rendered] | None  # (messages, tools=None)


def words(vocabulary: list[str]) -> tokenizers.Tokenizer:
  """One token per word of a small vocabulary; words are parted by spaces."""
  ids = {word: i for i, word in enumerate([*SPECIAL, *vocabulary])}
  built = tokenizers.Tokenizer(
      tokenizers.models.WordLevel(ids, unk_token='<unk>'))
  built.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  built.add_special_tokens(list(SPECIAL))
  return built


def characters(alphabet: str) -> tokenizers.Tokenizer:
  """One token per character: any text of a small alphabet, for tests."""
  ids = {c: i for i, c in enumerate([*SPECIAL, *dict.fromkeys(alphabet)])}
  built = tokenizers.Tokenizer(
      tokenizers.models.WordLevel(ids, unk_token='<unk>'))
  built.pre_tokenizer = tokenizers.pre_tokenizers.Split(
      tokenizers.Regex(r'[\s\S]'), 'isolated')
  built.decoder = tokenizers.decoders.Fuse()
  built.add_special_tokens(list(SPECIAL))
  return built


def load(name: str, /, **variables: Any) -> Tokenizer:
  """`asset:NAME` (shipped), `hf:DIR` or the path of a `tokenizer.json`.

  An asset is a file of words or a directory with a chat template. `variables`
  are what the template is told beside the messages (config.chat), such as
  `date_string`. Raises ValueError when a file is missing, is no tokenizer or
  lacks what is needed.
  """
  if paths.is_odd(name):
    raise ValueError(f'no tokenizer is called {paths.shown(name)}')
  path = Path(paths.of_model(name))
  if name.startswith('asset:'):
    path = ASSETS / paths.below(name.removeprefix('asset:'), 'the asset')
    if not path.is_dir():
      path = ASSETS / f'{path.name}.tokenizer.json'
  if name.startswith('hf:') or (name.startswith('asset:') and path.is_dir()):
    return from_chat(path, variables)
  if variables:
    raise ValueError(
        f'nothing reads the section chat: {path} has no chat template')
  return from_file(path)


def from_file(path: Path) -> Tokenizer:
  """A `tokenizer.json` with the four special tokens and no template."""
  if not path.is_file():
    raise ValueError(f'no tokenizer at {path}')
  content = path.read_bytes()
  try:
    built = tokenizers.Tokenizer.from_str(content.decode())
  except Exception as error:  # the library raises bare Exceptions
    raise ValueError(f'{path} is no tokenizer: {error}') from error
  ids = [built.token_to_id(word) for word in SPECIAL]
  if None in ids:
    raise ValueError(f'{path} lacks one of {" ".join(SPECIAL)}')
  pad, bos, end, nothing = ids

  def encode(text: str) -> list[int]:
    return built.encode(text, add_special_tokens=False).ids

  def unknown(text: str) -> list[str]:
    found = built.encode(text, add_special_tokens=False)
    return [text[slice(*at)] for token, at in zip(
        found.ids, found.offsets, strict=True) if token == nothing]

  def decode(tokens: list[int]) -> str:
    return built.decode([int(t) for t in tokens], skip_special_tokens=True)

  return Tokenizer(
      encode, decode, unknown, built.get_vocab_size(), pad, bos, end,
      hashlib.sha256(content).hexdigest(), stops=(end,),
      opening=lambda prompt: [bos, *encode(prompt)],
      completion=lambda text: [*encode(text), end],
      between=encode, cut=(), render=None)


def from_chat(folder: Path, variables: Mapping[str, Any]) -> Tokenizer:
  """A Hugging Face directory: prompts and feedback are turns of the user."""
  found = chat.load(folder, variables)
  written = found.template
  end = written.ends[found.stops.index(found.end)]
  return Tokenizer(
      found.encode, found.decode, found.unknown, found.vocabulary, found.pad,
      None, found.end, found.digest, stops=found.stops,
      opening=functools.partial(template.opening, written),
      completion=functools.partial(template.completion, written),
      between=functools.partial(template.between, written, end),
      cut=(found.end,), render=functools.partial(template.render, written))


POINTS24 = [
    *map(str, range(100)), *'AJQK', *'+-*/()=:,',
    'faces', 'ten', 'rank', 'cards', 'numbers', 'no', 'illegal', 'syntax',
    'operator', 'number', 'open', 'close', 'unmatched', 'invalid', 'excess',
    'unused', 'partial', 'nothing', 'target',
]  # the compact rendering of the card game

if __name__ == '__main__':  # makes the shipped asset again
  words(POINTS24).save(str(ASSETS / 'points24.tokenizer.json'))
