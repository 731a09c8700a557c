"""Text to tokens and back, behind two functions and three special tokens."""
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import tokenizers

ASSETS = Path(__file__).parent / 'assets'
SPECIAL = ('<pad>', '<s>', '</s>', '<unk>')


class Tokenizer(NamedTuple):
  """`encode` adds no special tokens; `decode` drops them."""
  encode: Callable[[str], list[int]]
  decode: Callable[[list[int]], str]
  unknown: Callable[[str], list[str]]  # the words of a text without a token
  vocabulary: int
  pad: int
  bos: int
  end: int  # closes a demonstration's completion
  stops: tuple[int, ...]  # every token that ends a completion
  digest: str  # sha256 of the file: what a checkpoint was trained with


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


def load(name: str) -> Tokenizer:
  """`asset:NAME` (shipped) or the path of a `tokenizer.json`.

  Raises ValueError when the file is missing, is no tokenizer or lacks one of
  the special tokens.
  """
  path = Path(name)
  if name.startswith('asset:'):
    path = ASSETS / f'{name.removeprefix("asset:")}.tokenizer.json'
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
      encode, decode, unknown, built.get_vocab_size(), pad, bos, end, (end,),
      hashlib.sha256(content).hexdigest())


POINTS24 = [
    *map(str, range(100)), *'AJQK', *'+-*/()=:,',
    'faces', 'ten', 'rank', 'cards', 'numbers', 'no', 'illegal', 'syntax',
    'operator', 'number', 'open', 'close', 'unmatched', 'invalid', 'excess',
    'unused', 'partial', 'nothing', 'target',
]  # the compact rendering of the card game

if __name__ == '__main__':  # makes the shipped asset again
  words(POINTS24).save(str(ASSETS / 'points24.tokenizer.json'))
