"""What was sampled is what stands in the row, and feedback never counts."""
import jax
import numpy as np
import pytest

from rlft import envs, episodes, policy
from rlft.training import metrics
from rlft.types import Task, Turn
from tests import tiny

WORDS = tiny.words()
GAME = envs.bind('general_points', text='compact', mode='corrected')


def hand(seed=0):
  return GAME.sample(np.random.default_rng(seed))


def wrong(task):
  return GAME.mistake(np.random.default_rng(1), task)


def scripted(*turns):
  """A policy that writes turns[t][i] for row i; log-probs tell them apart."""
  seen = []

  def complete(params, contexts, keys):
    texts = turns[len(seen)]
    seen.append(([list(c) for c in contexts],
                 jax.random.key_data(keys).tolist()[:len(contexts)]))
    new = [[*WORDS.encode(text), WORDS.end] for text in texts]
    scores = [
        episodes.Scores([-0.1 * (n + 1) for n in range(len(row))],
                        [-0.01 * (n + 1) for n in range(len(row))])
        for row in new]
    return new, scores

  complete.seen = seen
  return complete


def played(tasks, complete, **options):
  return episodes.play(
      GAME.respond, tasks, complete, None, WORDS, jax.random.key(0), **options)


def test_a_transcript_counts_the_answer_alone():
  task = Task('10 5 :', None)
  tokens, mask = episodes.transcript(
      WORDS, task, [('5 + 5', 'no target :'), ('2', 'no nothing :')], '10 - 5')
  pieces = ['<s> 10 5 :', '5 + 5 </s>', 'no target :', '2 </s>',
            'no nothing :', '10 - 5 </s>']
  assert tokens == WORDS.encode(' '.join(pieces))
  assert mask == [False] * (len(tokens) - 4) + [True] * 4


def test_what_was_sampled_is_in_the_row():
  task = hand()
  complete = scripted([GAME.demonstrate(task)])
  episode, = played([task], complete)
  prompt = [WORDS.bos, *WORDS.encode(task.prompt)]
  wrote = [*WORDS.encode(GAME.demonstrate(task)), WORDS.end]
  assert complete.seen[0][0] == [prompt]
  assert episode.tokens == prompt + wrote
  assert episode.mask == [False] * len(prompt) + [True] * len(wrote)
  assert episode.completions == [GAME.demonstrate(task)]
  assert episode.log_probs[len(prompt):] == [
      -0.1 * (n + 1) for n in range(len(wrote))]
  assert not any(episode.log_probs[:len(prompt)])
  assert episode.sampling_log_probs == pytest.approx(
      [0.1 * p for p in episode.log_probs])


def test_tokens_are_kept_where_text_would_lose_them():
  """A begin token in mid-completion decodes to nothing, yet stays."""
  strange = [10, WORDS.bos, WORDS.pad, 20]
  episode, = played(
      [hand()], lambda params, contexts, keys: (
          [strange], [episodes.Scores([0.0] * 4, [0.0] * 4)]))
  assert episode.tokens[-4:] == strange
  assert episode.mask[-4:] == [True] * 4
  assert episode.completions == ['6 16']


def test_wrong_then_right():
  first, second = hand(0), hand(1)
  complete = scripted(
      [wrong(first), GAME.demonstrate(second)], [GAME.demonstrate(first)])
  two, one = played([first, second], complete, tries=3)
  assert [len(e.turns) for e in (two, one)] == [2, 1]  # right is the end
  assert [t.done for t in two.turns] == [False, True]
  prompt = [WORDS.bos, *WORDS.encode(first.prompt)]
  miss = [*WORDS.encode(wrong(first)), WORDS.end]
  feedback = WORDS.encode(two.turns[0].observation)
  hit = [*WORDS.encode(GAME.demonstrate(first)), WORDS.end]
  assert two.tokens == prompt + miss + feedback + hit
  assert two.turn_ids == [-1] * len(prompt) + [0] * len(miss) + [
      -1] * len(feedback) + [1] * len(hit)
  assert two.mask == [i >= 0 for i in two.turn_ids]
  assert complete.seen[1][0] == [prompt + miss + feedback]  # only who is left
  paid = {i: r for i, r in enumerate(two.rewards) if r}
  assert paid == {len(prompt + miss) - 1: two.turns[0].reward,
                  len(two.tokens) - 1: two.turns[1].reward}
  assert all(len(column) == len(two.tokens) for column in (
      two.mask, two.turn_ids, two.rewards, two.log_probs,
      two.sampling_log_probs))


def test_the_last_try_gets_no_feedback():
  task = hand()
  complete = scripted([wrong(task)], [wrong(task)])
  episode, = played([task], complete, tries=2)
  assert len(episode.turns) == 2 and not episode.turns[-1].done
  assert episode.tokens[-1] == WORDS.end and episode.mask[-1]
  assert sum(episode.rewards) == sum(t.reward for t in episode.turns)


@pytest.mark.parametrize('end_truncated, turns', [(False, 2), (True, 1)])
def test_a_turn_that_was_cut_is_the_last_if_so_wanted(end_truncated, turns):
  """One that was not goes on either way."""
  cut, whole = hand(0), hand(1)
  begun = scripted([wrong(cut), wrong(whole)], ['1', '1'])

  def complete(params, contexts, keys):
    new, scores = begun(params, contexts, keys)
    if len(begun.seen) == 1:
      new[0].pop()
      scores[0] = episodes.Scores(*(column[:-1] for column in scores[0]))
    return new[:len(contexts)], scores[:len(contexts)]

  one, two = played([cut, whole], complete, tries=2,
                    end_truncated=end_truncated)
  assert (len(one.turns), len(two.turns)) == (turns, 2)
  assert episodes.was_cut(one, WORDS.stops) == (turns == 1)
  assert not episodes.was_cut(two, WORDS.stops)


def test_the_first_are_judged_while_the_next_are_sampled():
  """Two at a time; keys, contexts and turns are those of all at once."""
  tasks, log, keys_seen = [hand(n) for n in range(3)], [], []
  texts = [wrong(task) for task in tasks]
  whole = scripted(texts, texts)
  want = played(tasks, whole, tries=2)
  openings = [WORDS.opening(task.prompt) for task in tasks]

  def complete(params, contexts, keys):
    log.append(len(contexts))
    keys_seen.extend(jax.random.key_data(keys).tolist()[:len(contexts)])
    of = [next(i for i, o in enumerate(openings) if c[:len(o)] == o)
          for c in contexts]
    return scripted([texts[i] for i in of])(params, contexts, keys)

  def respond(task, completions):
    log.append('judged')
    return GAME.respond(task, completions)

  assert want == episodes.play(
      respond, tasks, complete, None, WORDS, jax.random.key(0), tries=2, rows=2)
  assert log == [2, 'judged', 'judged', 1, 'judged'] * 2
  assert keys_seen == [key for _, keys in whole.seen for key in keys]


def test_keys_are_of_the_sample_and_its_turn():
  """Whoever else is still playing does not change a row's key."""
  first, second = hand(0), hand(1)
  complete = scripted(
      [GAME.demonstrate(first), wrong(second)], [wrong(second)])
  played([first, second], complete, tries=2)
  key = lambda i, t: jax.random.key_data(jax.random.fold_in(
      jax.random.fold_in(jax.random.key(0), i), t)).tolist()
  assert complete.seen[0][1] == [key(0, 0), key(1, 0)]
  assert complete.seen[1][1] == [key(1, 1)]


@pytest.mark.parametrize('rows', [0, 2])
def test_turns_of_fewer_rows_compile_nothing_new(rows):
  """Whatever the number of rows that are still playing, or sampled at once."""
  counter, size = metrics.Compilations(), rows or 5

  def play(lasting):
    """Turns of 5, then of so many rows."""
    stay = [sum(i < n for n in lasting) for i in range(5)]
    counts = []

    def complete(params, contexts, keys):
      assert keys.shape == (size,)
      np.asarray(jax.random.key_data(keys[np.zeros(size, int)]))
      counts.append(counter.count)
      return [[WORDS.end]] * len(contexts), [
          episodes.Scores([0.0], [0.0])] * len(contexts)

    def respond(task, completions):
      more = len(completions) <= stay[task.answer]
      return Turn('', 0.0, not more, {'wrong' if more else 'correct': 0.0})

    found = episodes.play(
        respond, [Task('1', i) for i in range(5)], complete, None, WORDS,
        jax.random.key(0), tries=3, rows=rows)
    assert [len(e.turns) for e in found] == [1 + n for n in stay]
    return counts

  jax.clear_caches()
  first, *later = [*play((3, 1)), *play((4, 2))]
  assert first > 0 and {*later} == {first}


def test_an_episode_that_is_done_though_wrong_ends():
  complete = scripted(['1'])
  respond = lambda task, completions: Turn('no :', -3.0, True, {'wrong': -3.0})
  episode, = episodes.play(
      respond, [hand()], complete, None, WORDS, jax.random.key(0), tries=5)
  assert len(complete.seen) == 1 and episode.rewards[-1] == -3.0


@pytest.mark.parametrize('longest, width', [
    (1, 16), (16, 16), (17, 48), (48, 48), (49, 80), (241, 272), (272, 272),
    (273, 320), (512, 512), (513, 640), (1025, 1280), (2048, 2048)])
def test_widths_are_few(longest, width):
  assert episodes.width_of(longest) == width


def test_packing_by_hand():
  rows = [[5, 6, 7], [8]]
  packed = episodes.pack(rows, length=4, fill=0, dtype=np.int32)
  assert packed.tolist() == [[5, 6, 7, 0], [8, 0, 0, 0]]
  shifted = episodes.pack(
      rows, length=6, fill=-1, dtype=np.int32, prompt=3, starts=[2, 1])
  assert shifted.tolist() == [[-1, 5, 6, 7, -1, -1], [-1, -1, 8, -1, -1, -1]]


@pytest.mark.parametrize('options', [
    dict(length=2), dict(length=3, prompt=3, starts=[2]),
    dict(length=9, prompt=1, starts=[2])])
def test_what_does_not_fit_is_refused(options):
  with pytest.raises(ValueError, match='3 tokens does not fit in '):
    episodes.pack([[5, 6, 7]], fill=0, dtype=np.int32, **options)


def test_the_completer_splits_contexts_and_changes_no_text():
  """Five contexts two at a time are one batch of six with a row to spare."""
  contexts = [[1, 9 + i] for i in range(5)]
  keys = jax.random.split(jax.random.key(0), 5)
  sizes = dict(
      pad=WORDS.pad, stops=WORDS.stops, max_new_tokens=6, temperature=1.0)
  halves, whole = (
      episodes.completer(tiny.model(), rows=rows, **sizes)(
          tiny.initialised(), contexts, keys) for rows in (2, 6))
  assert halves[0] == whole[0]
  assert len({tuple(new) for new in whole[0]}) == 5
  for some, all in zip(halves[1], whole[1], strict=True):
    np.testing.assert_allclose(some.log_probs, all.log_probs, atol=1e-5)


def test_widths_grow_so_that_few_are_compiled_and_little_is_padding():
  lengths = range(1, 4097)
  widths = [episodes.width_of(n) for n in lengths]
  assert widths == sorted(widths) and len(set(widths)) == 25
  padding = [w - n for n, w in zip(lengths, widths, strict=True)]
  assert min(padding) == 0 and max(padding[:272]) < 32
  assert all(5 * p < w for p, w in zip(
      padding[272:], widths[272:], strict=True))


@pytest.fixture
def traced(monkeypatch):
  """The widths that the sampler was compiled for."""
  widths, sample = [], policy.sample

  def noted(model, params, prompts, *args, **options):
    widths.append(prompts.shape[1])
    return sample(model, params, prompts, *args, **options)

  monkeypatch.setattr(policy, 'sample', noted)
  episodes.sampler.cache_clear()
  yield widths
  episodes.sampler.cache_clear()


def contexts_of(*lengths):
  return [[WORDS.bos] + [9 + i] * (n - 1) for i, n in enumerate(lengths)]


def test_prefill_and_decoding_are_compiled_once_a_width(traced):
  sizes = dict(
      pad=WORDS.pad, stops=WORDS.stops, max_new_tokens=2, temperature=1.0,
      rows=2)
  for lengths in ((3, 16), (9, 17), (40, 48), (1, 2), (290, 300), (320, 274)):
    complete = episodes.completer(tiny.model(), **sizes)
    keys = jax.random.split(jax.random.key(0), 2)
    complete(tiny.initialised(), contexts_of(*lengths), keys)
  assert traced == [16, 48, 320]


def test_long_contexts_are_sampled_together_and_come_back_in_order(traced):
  """Their text is what each has alone, to the key."""
  lengths = (5, 300, 7, 310, 6)
  keys = jax.random.split(jax.random.key(0), 5)
  sizes = dict(
      pad=WORDS.pad, stops=(), max_new_tokens=4, temperature=1.0)
  complete = episodes.completer(tiny.model(), rows=2, **sizes)
  new, scores = complete(tiny.initialised(), contexts_of(*lengths), keys)
  assert sorted(traced) == [16, 320]
  for i, context in enumerate(contexts_of(*lengths)):
    (alone,), (score,) = complete(
        tiny.initialised(), [context], keys[i:i + 1])
    assert new[i] == alone
    np.testing.assert_allclose(
        scores[i].log_probs, score.log_probs, atol=1e-5)


def test_short_contexts_keep_their_batches(traced):
  keys = jax.random.split(jax.random.key(0), 4)
  complete = episodes.completer(
      tiny.model(), rows=2, pad=WORDS.pad, stops=(), max_new_tokens=1,
      temperature=1.0)
  complete(tiny.initialised(), contexts_of(20, 3, 20, 3), keys)
  assert traced == [48]


def test_a_rule_is_part_of_what_is_compiled():
  sizes = dict(
      pad=WORDS.pad, stops=(), max_new_tokens=3, temperature=5.0, rows=4)
  greedy, ruled, free = (
      episodes.completer(tiny.model(), **(sizes | options)) for options in (
          dict(temperature=0.0),
          dict(decoding=(('name', 'truncated'), ('top_k', 1))), {}))
  keys = jax.random.split(jax.random.key(0), 4)
  wrote = [complete(tiny.initialised(), contexts_of(3, 4, 5, 6), keys)
           for complete in (greedy, ruled, free)]
  assert wrote[0][0] == wrote[1][0] != wrote[2][0]
  for score in wrote[1][1]:
    np.testing.assert_allclose(score.sampling_log_probs, 0, atol=1e-6)
    assert max(score.log_probs) < -1
