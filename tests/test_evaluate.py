"""Success, its interval and its failures, on policies that are known."""
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft import distances, envs, episodes, evaluate, policy
from rlft.ops import intervals
from rlft.training import metrics
from rlft.types import Task, Turn
from tests import misjudging, tiny

WORDS = tiny.words()
RULES = tiny.game(split='held_out')
GAME = envs.bind(**RULES)


def make(**options):
  sizes = dict(env=RULES, n=6, rows=6, max_new_tokens=6)
  return evaluate.make('id', tiny.model(), WORDS, **(sizes | options))


@pytest.fixture
def scripted(monkeypatch):
  """Puts a policy in place that writes what answer(task, call) says."""

  def install(answer):
    tasks = {tuple(WORDS.encode(t.prompt)): t for t in GAME.hands(0, 6)}
    calls = itertools.count()

    def complete(params, contexts, keys):
      call = next(calls)
      texts = []
      for context in contexts:
        prompt = context[1:1 + context[1:].index(WORDS.encode(':')[0]) + 1]
        texts.append(answer(tasks[tuple(prompt)], call))
      new = [[*WORDS.encode(text), WORDS.end] for text in texts]
      return new, [episodes.Scores(*2 * [[0.0] * len(row)]) for row in new]

    monkeypatch.setattr(episodes, 'completer', lambda *_, **__: complete)

  return install


def wrong(task):
  return GAME.mistake(np.random.default_rng(0), task)


def test_an_oracle_succeeds_everywhere(scripted):
  scripted(lambda task, call: GAME.demonstrate(task))
  row, samples = make().run(None)
  assert row['success'] == row['high'] == row['number_field'] == 1.0
  assert row['n'] == 6
  assert row['low'] == pytest.approx(intervals.wilson(6, 6)[0])
  assert row['outcomes'] == {'correct': 1.0}
  assert row['solved'] == 'fc'  # six bits
  assert 'wins' not in row  # there is one sample
  assert [s['outcome'] for s in samples] == ['correct'] * 6


def test_half_an_oracle_by_hand(scripted):
  first = GAME.hands(0, 6)[:3]
  scripted(lambda task, call: GAME.demonstrate(task) if task in first else '1')
  row, samples = make(keep=4).run(None)
  assert row['success'] == 0.5 and row['solved'] == 'e0'
  assert (row['low'], row['high']) == intervals.wilson(3, 6)
  assert row['outcomes'] == {'correct': 0.5, 'format': 0.5}
  assert row['number_field'] == 0.5
  assert len(samples) == 4
  assert samples[3] == {
      'eval': 'id', 'prompt': GAME.hands(0, 6)[3].prompt, 'completion': '1',
      'tries': 1, 'reward': GAME.respond(first[0], ['1']).reward,
      'outcome': 'format'}


def test_a_second_try_with_feedback_counts(scripted):
  later = lambda task, call: GAME.demonstrate(task) if call else wrong(task)
  scripted(later)
  assert make().run(None)[0]['success'] == 0
  scripted(later)
  row, samples = make(tries=3).run(None)
  assert row['success'] == 1 and row['tries'] == 3
  assert {s['tries'] for s in samples} == {2}


def test_independent_tries_solve_what_any_of_them_solves(scripted):
  """Each of two calls solves its own half of the hands."""
  hands = GAME.hands(0, 6)
  half = (hands[:3], hands[3:])
  scripted(lambda task, call: GAME.demonstrate(task)
           if task in half[call] else '1')
  row, _ = make(independent=2, temperature=1.0).run(None)
  assert row['success'] == 1 and row['solved'] == 'fc'
  assert row['wins'] == ['e0', '1c']  # the first three, the last three
  assert row['outcomes'] == {'correct': 0.5, 'format': 0.5}  # of all answers
  at = {r['k']: r['mean'] for r in row['pass_at_k']}
  assert at == pytest.approx({1: 0.5, 2: 1.0})
  # '1' is no formula and has no vote, so the one that votes is elected
  at = {r['k']: r['mean'] for r in row['majority_at_k']}
  assert at == pytest.approx({1: 0.5, 2: 1.0})
  assert row['seconds'] > 0


def test_a_majority_can_be_wrong_where_a_sample_is_right(scripted):
  """Of four answers to each hand two are one mistake; two differ and are right.

  So the mistake has most votes, but in the half of the hands where it is no
  formula and has none.
  """
  half = GAME.hands(0, 6)[:3]

  def answer(task, call):
    right = GAME.demonstrate(task)
    other = right.replace(' : ', ' : ( ').replace(' = 24', ' ) = 24')
    mistake = wrong(task) if task in half else '1'
    return [right, mistake, other, mistake][call]

  scripted(answer)
  row, _ = make(independent=4, temperature=1.0).run(None)
  assert [r['k'] for r in row['pass_at_k']] == [1, 2, 4]
  assert [r['mean'] for r in row['pass_at_k']] == pytest.approx([
      1 / 2, 5 / 6, 1])
  # pairs are a right one and the mistake: a tie, or the right one alone
  assert [r['mean'] for r in row['majority_at_k']] == pytest.approx([
      1 / 2, 3 / 4, 1 / 2])
  last = row['majority_at_k'][2]
  assert 0 <= last['low'] < last['mean'] < last['high'] <= 1


def test_what_feedback_brings_by_hand():
  """Two tries of each of four tasks, beside four samples of each."""
  win, miss = episode('correct'), episode('format')
  alone = [[win, miss, miss, miss], [win, miss, win, win],
           [miss, miss, miss, win], [miss, win, miss, win]]
  row = evaluate.over_independent(
      [miss, win, miss, win], alone, [0, 1, 2, 3], 2)
  # of the sets of two of four: 1 - 1/6, 1 - 3/6, 1 - 3/6, 1 - 0/6
  assert row['independent_success']['mean'] == pytest.approx(17 / 24)
  assert row['over_independent']['mean'] == pytest.approx(1 / 2 - 17 / 24)
  # the first two samples solve three tasks, the others two
  assert row['over_independent_null']['mean'] == pytest.approx(3 / 4 - 2 / 4)
  for told in row.values():
    assert told['low'] < told['mean'] < told['high']


def deaf(rate):
  """A policy that solves hands by chance, and sees no feedback."""
  return lambda context, luck: luck < rate


def heeding(rate):
  """One that solves what it was told the mistake of."""
  told = WORDS.encode('no')[0]
  return lambda context, luck: told in context or luck < rate


@pytest.mark.parametrize('policy, gain', [(deaf(0.2), 0), (heeding(0.2), 0.3)])
def test_feedback_that_nobody_heeds_brings_nothing(monkeypatch, policy, gain):
  """256 hands: five tries are five samples unless the policy listens."""
  hands = {tuple(WORDS.opening(t.prompt)): t for t in GAME.hands(0, 256)}
  size = 1 + list(next(iter(hands))[1:]).index(WORDS.encode(':')[0])

  def complete(params, contexts, keys):
    luck = np.asarray(jax.random.key_data(keys))[:, 1] / 2**32
    new = [[*WORDS.encode(GAME.demonstrate(hands[tuple(c[:size + 1])])
                          if policy(c, chance) else '1'), WORDS.end]
           for c, chance in zip(contexts, luck, strict=False)]
    return new, [episodes.Scores(*2 * [[0.0] * len(row)]) for row in new]

  monkeypatch.setattr(episodes, 'completer', lambda *_, **__: complete)
  row, _ = make(n=256, tries=5, temperature=1.0,
                against_independent=True).run(None)
  five = 1 - 0.8**5
  assert row['independent_success']['mean'] == pytest.approx(five, abs=0.07)
  over, null = row['over_independent'], row['over_independent_null']
  assert null['low'] < 0 < null['high'] and null['high'] - null['low'] < 0.3
  assert over['mean'] == row['success'] - row['independent_success']['mean']
  if gain:
    assert over['low'] > 0.15 and row['success'] == 1
  else:
    assert over['low'] < 0 < over['high'] < 0.15


def test_verifiers_in_other_processes_judge_an_evaluation(scripted):
  """They find the same; one that raises is an outcome, and no reward."""
  first = GAME.hands(0, 6)[:3]
  answer = lambda task, call: (
      GAME.demonstrate(task) if task in first else '24 24 (')
  pooled = dict(verifiers=dict(workers=1, deadline=60.0))
  here, there = [], []
  for found, options in ((here, {}), (there, pooled)):
    scripted(answer)
    found += make(**options).run(None)
  clocks = {'seconds', 'completions_per_second'}
  assert {k: v for k, v in there[0].items() if k not in clocks} == {
      k: v for k, v in here[0].items() if k not in clocks}
  assert there[1] == here[1]
  fussy = functools.partial(envs.bind, **RULES)()._replace(
      respond=misjudging.fussy)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(evaluate.envs, 'bind', lambda **_: fussy)
    scripted(answer)
    row, samples = make(**pooled).run(None)
  assert row['success'] == 0.5
  assert row['outcomes'] == {'correct': 0.5, 'crashed': 0.5}
  assert json.loads(json.dumps(samples, allow_nan=False))[3]['reward'] is None


def test_without_an_answer_there_is_no_majority():
  played = [[episode('correct'), episode('format')],
            [episode('format'), episode('format')]]
  found = evaluate.repeated(played, [0, 1], None)
  assert set(found) == {'pass_at_k'}
  first, last = found['pass_at_k']
  assert (first['k'], last['k']) == (1, 2)
  assert (first['mean'], last['mean']) == (0.25, 0.5)
  assert 0 <= first['low'] < first['mean'] < first['high'] <= 1



def test_what_an_environment_does_not_tell_is_null():
  """No NaN, which is no JSON: of exercises nothing is stated beside."""
  world = envs.bind('point_skills', skill='translate')
  task = world.sample(np.random.default_rng(0))
  turn = world.respond(task, [world.demonstrate(task)])
  played = episode()._replace(turns=[turn])
  row = json.loads(json.dumps(evaluate.summarise([[played]]), allow_nan=False))
  assert row['number_field'] is None and row['success'] == 1


def episode(*outcomes):
  turns = [Turn('', 0.0, False, {o: 0.0, 'number_field': 1.0})
           for o in outcomes]
  return episodes.Episode(
      Task('', None), [], [], [], [], [], [], [], turns)


def test_a_summary_tells_the_last_outcome_of_each():
  row = evaluate.summarise([[
      episode('format', 'correct'), episode('lock_in'),
      episode('correct', 'wrong_value'), episode('lock_in')]])
  assert row['outcomes'] == {
      'correct': 0.25, 'lock_in': 0.5, 'wrong_value': 0.25}
  assert row['success'] == 0.25


@pytest.mark.parametrize('options, complaint', [
    (dict(tries=2, independent=2), 'not both'),
    (dict(independent=2), 'temperature above 0'),
    (dict(kl=2, entropy=2), 'kl measures the entropy, too'),
    (dict(tries=2, against_independent=True), 'temperature above 0'),
    (dict(against_independent=True, temperature=1.0), 'one try is a sample'),
    (dict(kl=7), 'kl is of 7 tasks and id has n=6: set kl to 6 or fewer'),
    (dict(kl_fixed=7), 'set kl_fixed to 6 or fewer, or raise n'),
    (dict(entropy=7), 'set entropy to 6 or fewer, or raise n'),
    (dict(env=dict(name='point_skills', skill='solve')), 'no fixed tasks')])
def test_what_makes_no_sense_is_refused(options, complaint):
  with pytest.raises(ValueError, match=complaint):
    make(**options)


@functools.cache
def measured(seed):
  """An evaluation with all distances, of parameters of this seed."""
  row, _ = make(nll=True, kl=4, kl_fixed=5, base_params=tiny.initialised()).run(
      tiny.initialised(seed))
  return row


SCORE = jax.jit(functools.partial(policy.forward, tiny.model()))


def test_the_oracles_completions_are_scored_token_by_token():
  totals = np.zeros(4)
  for task in GAME.hands(0, 6):
    answer = GAME.demonstrate(task)
    tokens, mask = episodes.transcript(WORDS, task, (), answer)
    row = np.pad(np.array(tokens, np.int32), (0, 48 - len(tokens)))[None]
    scored = np.asarray(
        SCORE(tiny.initialised(1), jnp.asarray(row)).log_probs)[0]
    start = mask.index(True)
    stop = start + 4  # four numbers before the colon
    totals += [scored[start:len(tokens)].sum(), len(tokens) - start,
               scored[start:stop].sum(), 4]
  row = measured(1)
  assert row['reference_nll'] == pytest.approx(
      -totals[0] / totals[1], rel=1e-4)
  assert row['number_nll'] == pytest.approx(-totals[2] / totals[3], rel=1e-4)


@jax.jit
def _log_softmax(params, tokens):
  variables = {'params': params['policy']}
  hidden, _ = tiny.model().apply(variables, tokens)
  return jax.nn.log_softmax(
      tiny.model().apply(variables, hidden, method='head'))


def log_softmax(params, tokens):
  return np.asarray(_log_softmax(params, jnp.asarray(tokens)), np.float64)


def test_the_distance_to_the_base_is_an_exact_kl():
  """Along samples at temperature 1 of the policy, over all words."""
  assert measured(0)['kl_to_base'] == pytest.approx(0, abs=1e-6)
  complete = episodes.completer(
      tiny.model(), pad=0, stops=WORDS.stops, max_new_tokens=6, temperature=1.0,
      rows=6)
  played = episodes.play(
      GAME.respond, GAME.hands(0, 4), complete, tiny.initialised(1), WORDS,
      jax.random.key(1))
  tokens = episodes.pack(
      [e.tokens for e in played], length=48, fill=0, dtype=np.int32)

  p, q = (log_softmax(tiny.initialised(k), tokens) for k in (1, 0))
  kl = (np.exp(p) * (p - q)).sum(-1)
  total = sum(kl[i, t - 1] for i, e in enumerate(played)
              for t, counts in enumerate(e.mask) if counts)
  row = measured(1)
  assert row['kl_to_base'] == pytest.approx(
      total / sum(sum(e.mask) for e in played), rel=1e-3)
  assert row['kl_to_base_per_completion'] == pytest.approx(
      total / 4, rel=1e-3)
  assert row['kl_to_base'] > 0.01
  entropy = -(np.exp(p) * p).sum(-1)
  assert row['entropy'] == pytest.approx(sum(
      entropy[i, t - 1] for i, e in enumerate(played)
      for t, counts in enumerate(e.mask) if counts
  ) / sum(sum(e.mask) for e in played), rel=1e-4)
  alone, _ = make(entropy=4).run(tiny.initialised(1))
  assert alone['entropy'] == row['entropy'] and 'kl_to_base' not in alone


@pytest.mark.parametrize('rows', [6, 2])
def test_the_distance_on_fixed_text_is_an_exact_kl(rows):
  """On the oracle's completions of five hands, however many at a time."""
  rows_of = [episodes.transcript(WORDS, task, (), GAME.demonstrate(task))
             for task in GAME.hands(0, 5)]
  tokens = episodes.pack(
      [row for row, _ in rows_of], length=48, fill=0, dtype=np.int32)
  p, q = (log_softmax(tiny.initialised(k), tokens) for k in (1, 0))
  kl = (np.exp(p) * (p - q)).sum(-1)
  places = [(i, t) for i, (_, mask) in enumerate(rows_of)
            for t, counts in enumerate(mask) if counts]
  text = distances.written(GAME, GAME.hands(0, 5), WORDS)
  found = distances.fixed(tiny.model(), text, tiny.initialised(), rows)
  want = sum(kl[i, t - 1] for i, t in places) / len(places)
  told = found(tiny.initialised(1))['kl_to_base_fixed']
  assert told == pytest.approx(want, rel=1e-4) and told > 0.01
  assert measured(1)['kl_to_base_fixed'] == pytest.approx(told, rel=1e-5)
  assert found(tiny.initialised())['kl_to_base_fixed'] == 0  # to the bit


def noted(calls, name, steps=()):
  def run(params):
    calls.append(name)
    return {'eval': name, 'success': params}, [{'eval': name, 'n': params}]
  return evaluate.Evaluation(name, run, frozenset(steps))


def test_a_record_runs_what_is_missing(tmp_path):
  calls = []
  id, ood = (noted(calls, name) for name in ('id', 'ood'))
  evaluate.record(tmp_path, 5, [id], 0.25)
  rows = evaluate.record(tmp_path, 5, [id, ood], 0.5)
  assert calls == ['id', 'ood']
  assert {k: r['success'] for k, r in rows.items()} == {'id': 0.25, 'ood': 0.5}
  evaluate.record(tmp_path, 6, [id, ood], 0.75)
  log = metrics.read(tmp_path / 'evals.jsonl')
  assert [(r['step'], r['eval'], r['success']) for r in log] == [
      (5, 'id', 0.25), (5, 'ood', 0.5), (6, 'id', 0.75), (6, 'ood', 0.75)]
  samples = metrics.read(tmp_path / 'samples' / '000005.jsonl')
  assert samples == [{'eval': 'id', 'n': 0.25}, {'eval': 'ood', 'n': 0.5}]


def test_samples_without_their_row_are_replaced(tmp_path):
  """An interruption between the two leaves samples and no row."""
  calls = []
  evaluate.record(tmp_path, 5, [noted(calls, 'id')], 0.25)
  (tmp_path / 'evals.jsonl').unlink()
  evaluate.record(tmp_path, 5, [noted(calls, 'id')], 0.5)
  assert metrics.read(tmp_path / 'samples' / '000005.jsonl') == [
      {'eval': 'id', 'n': 0.5}]


def test_an_evaluation_of_few_steps_is_made_at_those(tmp_path):
  calls = []
  for step in (0, 2, 4):
    evaluate.record(tmp_path, step, [noted(calls, 'rare', [2])], float(step))
  assert [r['step'] for r in metrics.read(tmp_path / 'evals.jsonl')] == [2]


def test_hands_of_one_multiset_are_one_problem():
  world = envs.bind('general_points', split='held_out')
  tasks = world.hands(0, 60)
  numbers = evaluate.numbered(tasks, world.problem)
  multisets = [tuple(sorted(t.answer.values)) for t in tasks]
  for i, first in enumerate(multisets):
    for j, second in enumerate(multisets):
      assert (numbers[i] == numbers[j]) == (first == second)
  assert max(numbers) + 1 == len(set(multisets)) < 60
  assert evaluate.numbered(tasks, None) == list(range(60))


def test_an_evaluation_under_a_rule_that_keeps_one_token_is_greedy():
  _, greedy = make().run(tiny.initialised(1))
  free, one = (
      make(temperature=2.0, **options).run(tiny.initialised(1))
      for options in ({}, dict(
          decoding=(('name', 'truncated'), ('top_k', 1)))))
  texts = lambda samples: [s['completion'] for s in samples]
  assert texts(one[1]) == texts(greedy) != texts(free[1])
  assert one[0]['decoding'] == {'name': 'truncated', 'top_k': 1}
  assert 'decoding' not in free[0]
