"""The card game as a chat: what stands in a row, what counts, who judges."""
import functools

import jax
import numpy as np
import pytest

from rlft import (
  api,
  binding,
  check,
  distances,
  envs,
  episodes,
  evaluate,
  tokenizer,
)
from rlft.experience import demonstrations, mixture, rollouts
from rlft.models import transformer
from rlft.objectives import ppo
from tests import tiny

FAMILIES = pytest.mark.parametrize('family', ['llama3_chat', 'qwen2_chat'])
PAPER = dict(name='general_points', text='paper', mode='corrected')
GAME = envs.bind(**PAPER)


@functools.cache
def words(family):
  return tokenizer.load(f'asset:{family}')


@functools.cache
def model(family):
  chat = words(family)
  return transformer.make(preset='tiny', vocabulary=chat.vocabulary,
                          pad=chat.pad, bos=chat.bos)


@functools.cache
def params(family):
  return {'policy': transformer.initialise(model(family), jax.random.key(0))}


def hand(seed=0):
  return GAME.sample(np.random.default_rng(seed))


def wrong(task, seed=1):
  return GAME.mistake(np.random.default_rng(seed), task)


def scripted(*turns):
  """Writes turns[t], token by token, whatever the context."""
  left = list(turns)
  return lambda params, contexts, keys: (
      [left.pop(0)], [episodes.Scores(*(
          [-0.5] * len(turns[len(turns) - len(left) - 1]) for _ in range(2)))])


def played(chat, task, *turns, game=GAME):
  episode, = episodes.play(
      game.respond, [task], scripted(*turns), None, chat, jax.random.key(0),
      tries=len(turns))
  return episode


def conversation(task, *said):
  talk = [task.prompt, *said]
  return [{'role': ('user', 'assistant')[i % 2], 'content': content}
          for i, content in enumerate(talk)]


@FAMILIES
def test_a_demonstration_is_a_conversation(family):
  chat, task = words(family), hand()
  answer = GAME.demonstrate(task)
  tokens, mask = episodes.transcript(chat, task, (), answer)
  found = chat.render(conversation(task, answer))
  assert tokens == found.tokens[:len(tokens)].tolist()  # Qwen's newline is off
  assert mask == found.mask[:len(mask)].tolist()
  assert not found.mask[len(mask):].any()
  counted = [t for t, m in zip(tokens, mask, strict=True) if m]
  assert counted[-1] == chat.end and counted[:-1] == chat.encode(
      answer.strip() if family == 'llama3_chat' else answer)
  turn = GAME.respond(task, [chat.decode(counted)])
  assert turn.parts == {'correct': 5.0, 'number_field': 1.0}


@FAMILIES
def test_failures_before_an_answer_do_not_count(family):
  chat, task = words(family), hand()
  bad, good = wrong(task), GAME.demonstrate(task)
  no = GAME.respond(task, [bad]).observation
  tokens, mask = episodes.transcript(chat, task, [(bad, no)], good)
  found = chat.render(conversation(task, bad, no, good))
  assert tokens == found.tokens[:len(tokens)].tolist()
  last = len(chat.completion(good))
  assert mask == [False] * (len(tokens) - last) + [True] * last


@FAMILIES
@pytest.mark.parametrize('mode', ['corrected', 'faithful'])
def test_an_episode_of_three_turns(family, mode):
  """Feedback is a turn of the user; the verdict is of the decoded tokens."""
  game = envs.bind(**{**PAPER, 'mode': mode})
  chat, task = words(family), hand()
  texts = [wrong(task, 1), wrong(task, 2), GAME.demonstrate(task)]
  episode = played(chat, task, *map(chat.completion, texts), game=game)
  trim = str.strip if family == 'llama3_chat' else str
  assert episode.completions == list(map(trim, texts))
  assert [t.done for t in episode.turns] == [False, False, True]
  assert 'correct' in episode.turns[-1].parts
  said = [t.observation for t in episode.turns[:2]]
  assert all(s.startswith('You failed this trial because ') for s in said)
  found = chat.render(conversation(
      task, texts[0], said[0], texts[1], said[1], texts[2]))
  n = len(episode.tokens)
  assert episode.tokens == found.tokens[:n].tolist()
  assert episode.mask == found.mask[:n].tolist()
  assert episode.mask == [i >= 0 for i in episode.turn_ids]
  sizes = [len(chat.completion(text)) for text in texts]
  assert [episode.turn_ids.count(t) for t in range(3)] == sizes
  ends = [i for i, t in enumerate(episode.tokens)
          if t == chat.end and episode.mask[i]]
  paid = [episode.rewards[i] for i in ends]
  assert paid == [t.reward for t in episode.turns]
  assert sum(map(abs, episode.rewards)) == sum(map(abs, paid))


@FAMILIES
def test_a_turn_that_met_no_stop_is_closed_uncounted(family):
  chat, task = words(family), hand()
  cut, stop = chat.encode('I think'), chat.stops[0]
  first = chat.opening(task.prompt)
  for wrote, closed in ((cut, [*cut, chat.end]), ([*cut, stop], [*cut, stop])):
    episode = played(chat, task, wrote, chat.completion('x'))
    after = chat.between(episode.turns[0].observation)
    begin = [*first, *closed, *after]
    assert episode.tokens == begin + chat.completion('x')
    assert episode.turn_ids.count(0) == sum(
        episode.mask[:len(begin)]) == len(wrote)
    assert episode.completions[0] == 'I think'


def test_words_are_left_as_they_were():
  """A word model's turn that met no stop runs into the feedback."""
  assert tiny.words().cut == ()
  assert tiny.words().stops == (tiny.words().end,)
  assert tiny.words().opening('24 cards') == [
      tiny.words().bos, *tiny.words().encode('24 cards')]
  assert tiny.words().between('no :') == tiny.words().encode('no :')
  assert tiny.words().render is None


@FAMILIES
def test_rows_of_demonstrations(family):
  chat = words(family)
  source = demonstrations.make(GAME, tokenizer=chat, rows=3, length=280)
  _, batch, _ = source.next(0, None, {}, jax.random.key(0))
  for tokens, mask in zip(batch.tokens, batch.mask, strict=True):
    text = chat.decode(tokens[mask].tolist())
    assert '"formula"' in text and tokens[mask][-1] == chat.end
    size = int((tokens != chat.pad).sum())
    assert (tokens[size:] == chat.pad).all() and mask[size - 1]
    assert not mask[:mask.argmax()].any() and mask[mask.argmax():size].all()


@FAMILIES
def test_documents_without_a_begin_token_share_no_row(family):
  chat = words(family)
  source = mixture.make(tokenizer=chat, rows=3, length=600, skills=dict(
      game=dict(weight=1.0, env=PAPER)))
  _, batch, data = source.next(0, None, {}, jax.random.key(0))
  begin = chat.opening('')[:2]  # the system turn: once a conversation
  for tokens in batch.tokens.tolist():
    assert tokens[:2] == begin
    assert begin not in [tokens[i:i + 2] for i in range(1, len(tokens))]
  assert data['tokens'] == (batch.tokens != chat.pad).sum()


def test_a_rollout_of_a_chat():
  """What was sampled is scored as it was sampled, in rows of conversations."""
  family = 'qwen2_chat'
  chat = words(family)
  source = rollouts.make(
      GAME, tokenizer=chat, model=model(family), advantages=ppo.advantages,
      ref_params=params(family), prompts=2, group=2, tries=2,
      max_new_tokens=6, length=320)
  _, experience, data = source.next(0, params(family), {}, jax.random.key(0))
  assert data['sampler_gap'] < 1e-4 and data['turns'] == 2
  rollout = jax.device_get(experience.rollout)
  for tokens, turns, mask in zip(
      rollout.tokens, rollout.turn_ids, rollout.mask, strict=True):
    assert {*turns.tolist()} == {-1, 0, 1}
    assert (mask == (turns >= 0)).all()
    first, second = (np.flatnonzero(turns == t) for t in (0, 1))
    middle = tokens[first[-1] + 1:second[0]].tolist()
    said = chat.decode(middle)
    assert 'You failed this trial' in said
    if tokens[first[-1]] not in chat.stops:
      assert middle[0] == chat.end
  assert np.isfinite(rollout.log_probs).all()
  assert np.isfinite(experience.advantages).all()


def test_a_prompt_that_leaves_no_room_is_told_before_the_run():
  config = tiny.rl_config()
  config.tokenizer = 'asset:llama3_chat'
  config.env.text = 'paper'
  config.evals.id.env.text = 'paper'
  config.experience.length = 150
  with pytest.raises(ValueError, match=(
      r'experience\.length is 150, but a prompt alone has 1\d\d tokens')):
    check.run(config)
  config.experience.length = 320
  check.run(config)


def test_what_a_row_needs_is_told():
  with pytest.raises(ValueError, match=(
      r'of 5 tokens does not fit in 18: .* section to 19 or more')):
    episodes.pack([[1] * 5], length=18, fill=0, dtype=np.int32, prompt=16,
                  starts=[2])


@pytest.mark.parametrize('answer, head', [
    ('10 5 2 4 : 10 + 5', '10 5 2 4 '), ('K 5', 'K 5'),
    ('\n{\n  "cards": [\'K\'],\n  "number": [10],\n  "formula": "10=24",\n}',
     '\n{\n  "cards": [\'K\'],\n  "number": [10],\n  ')])
def test_the_numbers_of_an_answer_stand_before_its_formula(answer, head):
  assert distances.stated(answer) == head


def test_an_evaluation_of_a_chat():
  chat = words('llama3_chat')
  found = evaluate.make(
      'id', model('llama3_chat'), chat, env=dict(PAPER, split='held_out'), n=3,
      max_new_tokens=4, rows=3, nll=True, kl=2,
      base_params=params('llama3_chat'))
  row, samples = found.run(params('llama3_chat'))
  nats = np.log(chat.vocabulary)  # of an untrained model, about
  assert abs(row['reference_nll'] - nats) < 1
  assert abs(row['number_nll'] - nats) < 1
  assert abs(row['kl_to_base']) < 1e-5 and row['success'] == 0
  assert len(samples) == 3 and samples[0]['tries'] == 1


def test_a_run_of_a_chat_from_config_to_talk(tmp_path):
  config = tiny.sft_config(num_steps=2)
  config.tokenizer = 'asset:llama3_chat'
  config.chat = dict(date_string='01 Feb 2025')
  config.experience.length = 280
  config.env.text = 'paper'
  config.evals = {}
  api.run(config, tmp_path / 'run')
  told, fixed = (tokenizer.load('asset:llama3_chat', **variables).opening('a')
                 for variables in (config.chat, {}))
  chat, found, _ = api.open_checkpoint(f'{tmp_path / "run"}@2')
  assert chat.opening('a') == told != fixed  # the run's own date
  assert (found.pad_id, found.bos_id) == (chat.pad, None)
  talk = api.sampler(f'{tmp_path / "run"}@2', max_new_tokens=3)
  assert isinstance(talk('24?'), str)
  with pytest.raises(ValueError, match='the prompt is empty'):
    talk('')
  config.chat.zebra = 1
  with pytest.raises(ValueError, match=r'config\.chat\.zebra: .* reads no'):
    binding.build(config)
