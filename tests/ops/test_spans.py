"""A text's spans among its tokens: words, characters, bytes, chats."""
import functools

import pytest
import tokenizers

from rlft import tokenizer
from rlft.ops import spans
from tests import tiny

ANSWER = ('\n{\n  "cards": [\'K\', \'5\'],\n  "number": [10, 5],\n'
          '  "formula": "(10+5)=24",\n}')


@functools.cache
def words(family):
  return tokenizer.load(f'asset:{family}')


def bytewise():
  """One token per byte."""
  alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  built = tokenizers.Tokenizer(tokenizers.models.BPE(
      vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
  built.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False)
  built.decoder = tokenizers.decoders.ByteLevel()
  return built


def test_words_by_hand():
  """The space before a word is written with the word."""
  chat = tiny.words()
  text = '10 5 : 10 + 5'
  tokens = [*chat.encode(text), chat.end]
  assert chat.decode(tokens) == text
  at = text.index(':')
  for start in (at, at - 1):  # the space is in the colon's token
    assert spans.weights(tokens, chat.decode, [(0, start, 0.5)]) == [
        0.5, 0.5, 1, 1, 1, 1, 1]
  assert spans.weights(tokens, chat.decode, [(0, at + 1, 0.5)]) == [
      0.5, 0.5, 0.5, 1, 1, 1, 1]


def test_characters_by_hand():
  built = tokenizer.characters('abcdef')
  tokens = built.encode('abcdef').ids
  got = spans.weights(tokens, built.decode, [(1, 3, 0.5), (4, 6, 0.)])
  assert got == [1, 0.5, 0.5, 1, 0, 0]
  got = spans.weights(tokens, built.decode, [(0, 4, 0.5), (2, 3, 2.)])
  assert got == [0.5, 0.5, 2, 0.5, 1, 1]  # the later one overrules


@pytest.mark.parametrize('family', ['llama3_chat', 'qwen2_chat'])
def test_a_token_weighs_what_its_end_does(family):
  """For every border, against the offsets of the tokenizer itself."""
  chat = words(family)
  tokens = chat.encode(ANSWER)
  ends = [len(chat.decode(tokens[:i + 1])) for i in range(len(tokens))]
  assert ends[-1] == len(ANSWER) and len(set(ends)) > 10
  for border in range(len(ANSWER) + 1):
    got = spans.weights(tokens, chat.decode, [(0, border, 0.5)])
    assert got == [0.5 if end <= border else 1. for end in ends]


def test_a_token_over_the_border_counts_with_what_follows():
  chat = words('qwen2_chat')
  pieces = ['ab', ' "', 'formula']
  tokens = [t for piece in pieces for t in chat.encode(piece)]
  quote = len(chat.encode('ab'))
  if chat.decode(tokens[quote:quote + 1]) != ' "':
    pytest.skip('no token of this vocabulary has a space and a quote')
  got = spans.weights(tokens, chat.decode, [(0, 3, 0.5)])
  assert got[:quote + 1] == [0.5] * quote + [1.]


def test_a_character_of_several_tokens_is_in_one_span():
  """Half a character is one character: no byte is ahead of its span."""
  built = bytewise()
  text = 'é😀x'
  tokens = built.encode(text).ids
  assert len(tokens) == 2 + 4 + 1
  got = spans.weights(tokens, built.decode, [(0, 1, 0.5), (2, 3, 0.25)])
  assert got == [0.5] * 2 + [1.] * 4 + [0.25]


def test_tokens_without_text_go_with_what_stands_before():
  chat = words('qwen2_chat')
  tokens = [chat.end, *chat.encode('a'), chat.end, *chat.encode('b'), chat.end]
  assert chat.decode(tokens) == 'ab'
  assert spans.weights(tokens, chat.decode, [(0, 1, 0.5)]) == [
      0.5, 0.5, 0.5, 1, 1]
  assert spans.weights(tokens, chat.decode, [(1, 2, 0.5)]) == [
      1, 1, 1, 0.5, 0.5]


def test_a_completion_without_text():
  chat = words('qwen2_chat')
  assert spans.weights([chat.end], chat.decode, [(0, 0, 0.5)]) == [0.5]
  assert spans.weights([chat.end], chat.decode, []) == [1]
