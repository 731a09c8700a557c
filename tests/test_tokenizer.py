"""Text to tokens and back, and files that are none."""
import hashlib
import json

import numpy as np
import pytest

from rlft import envs, tokenizer
from tests import tiny


def saved(built, folder):
  path = folder / 'tokenizer.json'
  built.save(str(path))
  return str(path)


def test_a_word_is_a_token():
  words = tiny.words()
  assert (words.pad, words.bos, words.end) == (0, 1, 2)
  assert words.encode('0 99 A') == [4, 103, 104]
  assert words.decode([4, 103, 104]) == '0 99 A'


def test_encoding_adds_nothing_and_decoding_drops_the_special_tokens():
  words = tiny.words()
  assert words.encode('') == []
  assert words.decode([words.bos, 14, words.end, words.pad]) == '10'


def test_an_unknown_word_has_a_token_of_its_own():
  assert tiny.words().encode('10 zebra 10') == [14, 3, 14]
  assert tiny.words().unknown('10 zebra 10 Köln 100') == [
      'zebra', 'Köln', '100']
  assert tiny.words().unknown('24 cards :') == []


@pytest.mark.parametrize('name, rules', [
    ('general_points', dict(text='compact', faces=(11, 12, 13))),
    ('point_skills', dict(skill='solve')),
    ('point_skills', dict(skill='translate'))])
def test_the_card_games_survive_the_round_trip(name, rules):
  words, rng = tiny.words(), np.random.default_rng(0)
  env = envs.bind(name, **rules)
  for _ in range(20):
    task = env.sample(rng)
    answer = env.demonstrate(task)
    reply = env.respond(task, [answer.replace('=', '= =')]).observation
    for text in (task.prompt, answer, reply):
      tokens = words.encode(text)
      assert 3 not in tokens, text
      assert words.decode(tokens) == text


def test_the_shipped_file_is_what_the_module_writes(tmp_path):
  path = saved(tokenizer.words(tokenizer.POINTS24), tmp_path)
  again = tokenizer.load(path)
  assert again.digest == tiny.words().digest
  assert again.vocabulary == len(tokenizer.POINTS24) + 4


def test_characters_keep_every_space(tmp_path):
  text = 'a  b\nba '
  letters = tokenizer.load(saved(tokenizer.characters('ab \n'), tmp_path))
  assert letters.vocabulary == 8
  tokens = letters.encode(text)
  assert len(tokens) == len(text)
  assert letters.decode([letters.bos, *tokens, letters.end]) == text


def test_the_digest_is_that_of_the_file(tmp_path):
  path = saved(tokenizer.characters('ab'), tmp_path)
  with open(path, 'rb') as file:
    assert tokenizer.load(path).digest == hashlib.sha256(
        file.read()).hexdigest()


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(ValueError, match=r'no tokenizer at .*none\.json'):
    tokenizer.load(str(tmp_path / 'none.json'))
  with pytest.raises(ValueError, match=r'no tokenizer at .*zebra\.tokenizer'):
    tokenizer.load('asset:zebra')


@pytest.mark.parametrize('spoil', [
    lambda text: text[:200], lambda text: '[]', lambda text: '',
    lambda text: '\x80\ud800'])
def test_a_broken_file_is_refused(tmp_path, spoil):
  whole = (tokenizer.ASSETS / 'points24.tokenizer.json').read_text()
  path = tmp_path / 'tokenizer.json'
  path.write_bytes(spoil(whole).encode('utf-8', 'surrogatepass'))
  with pytest.raises(ValueError, match='is no tokenizer'):
    tokenizer.load(str(path))


def test_a_file_without_a_special_token_is_refused(tmp_path):
  whole = json.loads((tokenizer.ASSETS / 'points24.tokenizer.json').read_text())
  del whole['model']['vocab']['</s>']
  whole['added_tokens'] = [
      t for t in whole['added_tokens'] if t['content'] != '</s>']
  path = tmp_path / 'tokenizer.json'
  path.write_text(json.dumps(whole))
  with pytest.raises(ValueError, match='lacks one of <pad> <s> </s> <unk>'):
    tokenizer.load(str(path))
