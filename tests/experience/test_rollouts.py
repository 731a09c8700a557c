"""The policy plays, the environment pays: what stands in a rollout."""
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft import envs, episodes, policy
from rlft.adapters import value_head
from rlft.decoding import truncated
from rlft.experience import rollouts
from rlft.objectives import grpo, ppo, rloo
from rlft.ops import sharding
from rlft.types import Task
from tests import tiny

WORDS = tiny.words()
GAME = envs.bind(
    'general_points', text='compact', mode='corrected', split='train')
SECTION = dict(tiny.ROLLOUTS)  # near uniform, so special words are sampled too
PROMPTS, GROUP = SECTION['prompts'], SECTION['group']
SEED = 1  # of a rollout in which the policy writes a pad and a begin token
SCORE = functools.partial(
    policy.forward, tiny.model(), temperature=SECTION['temperature'])


@functools.cache
def params():
  critic = value_head.make(tiny.initialised()['policy'])
  return {**tiny.initialised(), 'critic': tiny.noised(critic, 0.1)}


def source(**changes):
  return rollouts.make(GAME, **(SECTION | dict(
      tokenizer=WORDS, model=tiny.model(), advantages=ppo.advantages,
      ref_params=tiny.initialised()) | changes))


@functools.cache
def drawn(seed=SEED, policy_seed=0):
  played = source()
  state, experience, metrics = played.next(
      played.init(), {**params(), **tiny.initialised(policy_seed)}, {},
      jax.random.key(seed))
  assert state == played.init()
  return jax.device_get(experience), metrics


def test_shapes_are_those_of_the_config():
  experience, metrics = drawn()
  rows = PROMPTS * GROUP
  for name, array in experience.rollout._asdict().items():
    assert array.shape == ((rows,) if name in (
        'prompt_ids', 'truncated') else (rows, 80))
  assert experience.advantages.shape == experience.returns.shape == (rows, 80)
  assert all(np.isfinite(v) for v in metrics.values())


def test_completions_of_one_prompt_share_its_id():
  rollout = drawn()[0].rollout
  assert rollout.prompt_ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
  start = rollout.mask[0].argmax()
  prompts = [tuple(row[:start]) for row in rollout.tokens]
  assert [prompts.index(p) for p in prompts] == [0, 0, 2, 2, 4, 4, 6, 6]
  assert (rollout.tokens[0] != rollout.tokens[1]).any()  # yet differ


def test_first_completions_start_in_one_column():
  mask = drawn()[0].mask
  start = mask[0].argmax()
  assert not mask[:, :start].any() and mask[:, start].all()


def test_turns_alternate_with_feedback():
  """Two tries each: the mask has a hole, where the verifier speaks."""
  rollout = drawn()[0].rollout
  np.testing.assert_array_equal(rollout.mask, rollout.turn_ids >= 0)
  for row, turns in zip(rollout.tokens, rollout.turn_ids, strict=True):
    first, second = (np.flatnonzero(turns == k) for k in (0, 1))
    assert np.ptp(first) + 1 == len(first) and np.ptp(second) + 1 == len(second)
    between = row[first[-1] + 1:second[0]]
    reply = WORDS.decode(between.tolist())
    assert reply.startswith('no ') and reply.endswith(' :')
    assert set(turns) == {-1, 0, 1}


def test_rewards_stand_on_the_last_token_of_a_turn_and_sum_to_what_was_paid():
  experience, metrics = drawn()
  rollout = experience.rollout
  assert not rollout.rewards[~rollout.mask].any()
  for rewards, turns in zip(rollout.rewards, rollout.turn_ids, strict=True):
    last = {np.flatnonzero(turns == k)[-1] for k in (0, 1)}
    assert set(np.flatnonzero(rewards)) == last
  total = rollout.rewards.sum(1).mean() / SECTION['reward_scale']
  assert metrics['reward'] == pytest.approx(total) and total < 0


def test_nothing_but_the_completions_is_scored():
  experience = drawn()[0]
  rollout = experience.rollout
  for array in (rollout.log_probs, rollout.ref_log_probs, rollout.values,
                rollout.sampler_log_probs, experience.advantages,
                experience.returns):
    assert not array[~rollout.mask].any()
    assert array[rollout.mask].all()


def test_the_sampler_agrees_with_the_trainer():
  """Also where the policy writes a pad or begins a document by itself."""
  experience, metrics = drawn()
  wrote = experience.tokens[experience.mask]
  assert {WORDS.pad, WORDS.bos} <= set(wrote.tolist())
  assert 0 < metrics['sampler_gap_mean'] <= metrics['sampler_gap'] < 1e-4
  rollout = experience.rollout
  apart = np.abs(rollout.log_probs - rollout.sampler_log_probs)
  assert apart.max() == pytest.approx(metrics['sampler_gap'])


def test_a_policy_has_no_gap_to_itself_and_one_to_another():
  own, other = drawn(), drawn(policy_seed=1)
  assert own[1]['reference_gap'] == own[1]['kl_k1'] == 0
  assert other[1]['reference_gap'] > 0.01
  mask = other[0].mask
  want = jax.jit(SCORE)(tiny.initialised(), jnp.asarray(other[0].tokens))
  np.testing.assert_allclose(
      other[0].rollout.ref_log_probs[mask], np.asarray(want.log_probs)[mask],
      atol=1e-5)


def test_a_rollout_is_a_function_of_the_key():
  again = source().next(0, params(), {}, jax.random.key(SEED))[1]
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), drawn()[0])
  assert (drawn(seed=SEED + 1)[0].tokens != again.tokens).any()


def weights_of(game=GAME, **changes):
  made = rollouts.make(
      game, tokenizer=WORDS, model=tiny.model(), advantages=ppo.advantages,
      ref_params=tiny.initialised(), **(SECTION | changes))
  return jax.device_get(made.next(
      0, params(), {}, jax.random.key(SEED))[1].rollout.weights)


def test_weights_stand_on_the_tokens_that_wrote_the_span():
  """Special words, which have no text, go with the word before them."""
  half = GAME._replace(spans=lambda _, text: [(0, len(text) // 2, 0.25)])
  found, rollout = weights_of(half), drawn()[0].rollout
  for row, ids, weights in zip(
      rollout.tokens, rollout.turn_ids, found, strict=True):
    for turn in (0, 1):
      wrote = row[ids == turn].tolist()
      ends = [len(WORDS.decode(wrote[:i + 1])) for i in range(len(wrote))]
      assert weights[ids == turn].tolist() == [
          0.25 if end <= ends[-1] // 2 else 1.0 for end in ends]
  assert not found[~rollout.mask].any() and {*found.flat} == {0, 0.25, 1}


def test_words_before_the_colon_are_thought():
  turns = [WORDS.encode(text) for text in ('10 5 : 10', '10 5')]
  made = episode([1, 7], [*turns[0], WORDS.end])._replace(
      completions=['10 5 : 10', '10 5'],
      task=GAME.sample(np.random.default_rng(0)))
  made.tokens.extend([8, *turns[1], WORDS.end])
  made.turn_ids.extend([-1, 1, 1, 1])
  weigh = functools.partial(
      rollouts.weigh, made, GAME.spans, WORDS.decode)
  assert weigh(0) == [0, 0, 0.5, 0.5, 1, 1, 1, 0, 0.5, 0.5, 0.5]
  assert weigh(1) == [0, 0, 0, 0.5, 1, 1, 1, 0, 0, 0.5, 0.5]


def test_what_weighs_how_much_is_the_environments_and_the_sections():
  usual, mask = drawn()[0].rollout.weights, drawn()[0].rollout.mask
  plain = weights_of(GAME._replace(spans=None))
  np.testing.assert_array_equal(plain, mask)
  skipped = weights_of(skip_tokens=2)
  ids = drawn()[0].rollout.turn_ids
  for row, turns in enumerate(ids):
    for turn in (0, 1):
      at = np.flatnonzero(turns == turn)
      assert not skipped[row, at[:2]].any()
      np.testing.assert_array_equal(skipped[row, at[2:]], usual[row, at[2:]])
  with pytest.raises(ValueError, match='skip_tokens is -1: it is a number'):
    source(skip_tokens=-1)


def episode(prompt, completion):
  n, m = len(prompt), len(completion)
  return episodes.Episode(
      task=Task('', None), tokens=prompt + completion,
      mask=[False] * n + [True] * m, turn_ids=[-1] * n + [0] * m,
      rewards=[0.0] * (n + m - 1) + [5.0],
      log_probs=[0.0] * n + [-0.5] * m,
      sampling_log_probs=[0.0] * n + [-0.2] * m, completions=[], turns=[])


STOPS_AT_2 = WORDS._replace(pad=0, end=2, stops=(2,))


def test_arrays_by_hand():
  """The longest prompt begins in the first column: none is padding alone."""
  arrays = rollouts.to_arrays(
      [episode([1, 7], [9, 2]), episode([1, 8, 8], [9])],
      [[0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 0.0, 1.0]], STOPS_AT_2, length=7)
  assert arrays['tokens'].tolist() == [
      [0, 1, 7, 9, 2, 0, 0], [1, 8, 8, 9, 0, 0, 0]]
  assert arrays['turn_ids'][0].tolist() == [-1, -1, -1, 0, 0, -1, -1]
  assert arrays['rewards'][:, 3:5].tolist() == [[0, 5], [5, 0]]
  assert arrays['weights'][:, 2:5].tolist() == [[0, 0.5, 1], [0, 1, 0]]
  assert arrays['sampler_log_probs'][:, 2:5].tolist() == [
      [0, -0.5, -0.5], [0, -0.5, 0]]
  assert arrays['truncated'].tolist() == [False, True]


def test_a_row_that_is_too_short_is_refused():
  row = [episode([1, 7], [9, 9, 2])], [[0.0] * 5], STOPS_AT_2
  rollouts.to_arrays(*row, length=5)
  with pytest.raises(ValueError, match='does not fit in 4: raise'):
    rollouts.to_arrays(*row, length=4)


def test_a_temperature_of_zero_explores_nothing():
  with pytest.raises(ValueError, match='temperature 0'):
    source(temperature=0.0)


def test_rows_that_every_device_would_sample_are_refused():
  with sharding.over(sharding.of(jax.devices()[:4], data=4, fsdp=1, tensor=1)):
    source(sample_rows=4)
    with pytest.raises(ValueError, match=r'6 rows of experience\.sample_r'):
      source(sample_rows=6)


def test_under_a_rule_the_trainer_keeps_the_full_softmax():
  """And `decoding_kl` is minus the mean log of the mass that the rule keeps."""
  settings = dict(top_k=9, top_p=0.8)
  played = source(decoding=(('name', 'truncated'), *settings.items()))
  _, experience, metrics = played.next(0, params(), {}, jax.random.key(SEED))
  assert metrics['sampler_gap'] < 1e-4  # as without one
  model, variables = tiny.model(), {'params': params()['policy']}

  @jax.jit
  def full(tokens):
    hidden, _ = model.apply(variables, tokens)
    logits = model.apply(variables, hidden, method='head')[:, :-1]
    return jax.nn.log_softmax(logits / SECTION['temperature'])

  log_p = np.asarray(full(experience.tokens))
  mask, tokens = (np.asarray(x)[:, 1:] for x in (
      experience.mask, experience.tokens))
  kept = np.asarray(truncated.rule(
      jnp.asarray(log_p[mask]), **settings)) > -np.inf
  chosen = tokens[mask][:, None]
  assert np.take_along_axis(kept, chosen, 1).all()
  np.testing.assert_allclose(
      np.asarray(experience.rollout.log_probs)[:, 1:][mask],
      np.take_along_axis(log_p[mask], chosen, 1)[:, 0], atol=1e-5)
  mass = np.where(kept, np.exp(log_p[mask]), 0).sum(1)
  assert metrics['decoding_kl'] == pytest.approx(-np.log(mass).mean(), rel=1e-4)
  assert metrics['decoding_kl'] > 1


def test_without_a_rule_there_is_no_distance_to_tell():
  assert 'decoding_kl' not in drawn()[1]


def test_the_price_of_a_nat_follows_the_kl():
  """One step of the controller by hand; the state is a number of JSON's."""
  advantages = functools.partial(
      rloo.advantages, kl_reward_coef=0.1, kl_estimator='k2')
  played = source(advantages=advantages, kl_target=0.01, kl_horizon=40)
  moved = {**params(), **tiny.initialised(1)}  # far from its reference
  state, experience, metrics = played.next(
      played.init(), moved, {}, jax.random.key(SEED))
  assert played.init() == metrics['kl_reward_coef'] == 0.1
  assert metrics['kl_k1'] * metrics['completion_tokens'] > 0.012
  assert state == pytest.approx(0.1 * (1 + 0.2 * PROMPTS * GROUP / 40))
  assert json.loads(json.dumps(state)) == state and type(state) is float
  later = played.next(state, moved, {}, jax.random.key(SEED))
  assert later[2]['kl_reward_coef'] == state
  for coef, found in ((0.1, experience), (state, later[1])):
    want = rloo.advantages(
        found.rollout, kl_reward_coef=coef, kl_estimator='k2')
    np.testing.assert_allclose(found.returns, want.returns, atol=1e-5)
  assert np.abs(experience.returns - later[1].returns).max() > 1e-4


@pytest.mark.parametrize('advantages, complaint', [
    (grpo.advantages, 'this objective has no KL in its rewards'),
    (rloo.advantages, 'advantages.kl_reward_coef 0.0: all must be above 0')])
def test_a_target_that_nothing_follows_is_refused(advantages, complaint):
  with pytest.raises(ValueError, match=complaint):
    source(advantages=advantages, kl_target=6.0)


def again(**changes):
  """The rollout of `drawn`, otherwise."""
  played = source(**changes)
  _, experience, metrics = played.next(
      played.init(), params(), {}, jax.random.key(SEED))
  return jax.device_get(experience), metrics


def test_a_prompt_that_is_computed_once_changes_no_number():
  """Where the longest prompt is longer than what is shared, too."""
  (want, told), start = drawn(), drawn()[0].mask[0].argmax()
  got, said = again(prompt_length=int(start) - 2)
  off = ~(np.arange(80) >= start)
  assert not got.rollout.ref_log_probs[:, 1:start - 2].any()
  clear = lambda x: jax.tree.map(
      lambda leaf: np.where(off, 0, leaf) if leaf.ndim == 2 else leaf, x)
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4),
               clear(got), clear(want))
  for name in ('reward', 'kl_k1', 'sampler_gap_mean', 'padding'):
    np.testing.assert_allclose(said[name], told[name], atol=1e-4)
  wide, _ = again(prompt_length=int(start) + 3)
  np.testing.assert_array_equal(wide.tokens[:, 3:], want.tokens[:, :-3])
  assert wide.mask[:, start + 3].all()


def test_without_rescoring_the_samplers_log_probs_are_the_behaviours():
  (want, told), (got, said) = drawn(), again(rescore=False)
  np.testing.assert_array_equal(
      got.rollout.log_probs, got.rollout.sampler_log_probs)
  mask = want.mask
  np.testing.assert_allclose(
      got.rollout.log_probs[mask], want.rollout.log_probs[mask], atol=1e-4)
  assert np.abs(got.rollout.log_probs[mask]).min() > 1e-3
  np.testing.assert_allclose(got.advantages, want.advantages, atol=1e-3)
  # what nobody knows is not told
  assert set(told) - set(said) == {'sampler_gap', 'sampler_gap_mean'}
