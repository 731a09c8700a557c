"""Which rows of a rollout enter the loss, and what the others still say."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft import envs, episodes, outcomes
from rlft.experience import rollouts
from rlft.objectives import ppo, rloo
from rlft.ops import alarms
from tests import misjudging, tiny

WORDS = tiny.words()
GAME = envs.bind(
    'general_points', text='compact', mode='corrected', split='train')
TASKS = [GAME.sample(np.random.default_rng(seed)) for seed in range(4)]
# of each task: a completion, and whether it meets its stop
ANSWERS = (('right', True), ('right', False), ('wrong', True), ('wrong', False),
           ('none', True), ('wrong', True), ('right', True), ('none', True))
KINDS = ('correct', 'correct', 'wrong', 'truncated', 'unparsable', 'wrong',
         'correct', 'unparsable')
CUT = np.array([not whole for _, whole in ANSWERS])


def false(task):
  """A mistake that can be read."""
  tries = (GAME.mistake(np.random.default_rng(n), task) for n in range(99))
  return next(text for text in tries if outcomes.named(
      GAME.respond(task, [text])).startswith('wrong'))


def wrote(task, answer, whole):
  text = {'right': GAME.demonstrate, 'none': lambda task: '24 24 (',
          'wrong': false}
  return [*WORDS.encode(text[answer](task)), *[WORDS.end] * whole]


@pytest.fixture
def scripted(monkeypatch):
  """source(**changes): each of 4 tasks, in order, is answered twice."""
  answers = itertools.cycle(
      wrote(TASKS[i // 2], *ANSWERS[i]) for i in range(8))

  def complete(params, contexts, keys):
    rows = list(itertools.islice(answers, len(contexts)))
    return rows, [episodes.Scores([-1.0] * len(r), [-1.0] * len(r))
                  for r in rows]

  def source(game=GAME, **changes):
    hands = itertools.cycle(TASKS)
    return rollouts.make(
        game._replace(sample=lambda rng: next(hands)),
        **tiny.ROLLOUTS | dict(
            tokenizer=WORDS, model=tiny.model(), advantages=rloo.advantages,
            ref_params=tiny.initialised(), tries=1) | changes)

  def completer(*_, meter, **__):
    def metered(*asked):
      meter.update(computed=1)
      return complete(*asked)

    return metered

  monkeypatch.setattr(rollouts.episodes, 'completer', completer)
  return source


def drawn(source):
  _, experience, metrics = source.next(
      source.init(), tiny.initialised(), {}, jax.random.key(0))
  return jax.device_get(experience), metrics


def test_every_kind_has_a_rate_and_all_of_these_enter(scripted):
  experience, metrics = drawn(scripted())
  for kind in set(KINDS):
    assert metrics[f'outcome_{kind}'] == KINDS.count(kind) / 8
  assert metrics['outcome_crashed'] == metrics['outcome_timed_out'] == 0
  assert metrics['success'] == 3 / 8
  assert metrics['truncated'] == 2 / 8 and metrics['learned'] == 1
  assert experience.rollout.truncated.tolist() == CUT.tolist()
  assert experience.mask.any(1).all()


@pytest.mark.parametrize('options, enter', [
    (dict(mask_truncated=True), ~CUT),
    (dict(learn_from=('correct',)), np.array([k == 'correct' for k in KINDS])),
    (dict(learn_from=('correct', 'truncated'), mask_truncated=True),
     np.array([k == 'correct' for k in KINDS]) & ~CUT),
    (dict(learn_from=('wrong', 'unparsable')),
     np.array([k in ('wrong', 'unparsable') for k in KINDS]))])
def test_what_does_not_enter_is_masked_and_in_no_group(
    scripted, options, enter):
  """The rest has the credit of a rollout that never had these rows."""
  whole, before = drawn(scripted())
  some, metrics = drawn(scripted(**options))
  np.testing.assert_array_equal(some.mask, whole.mask & enter[:, None])
  np.testing.assert_array_equal(some.tokens, whole.tokens)
  assert not some.advantages[~enter].any() and not some.returns[~enter].any()
  assert not some.rollout.rewards[~enter].any()
  want = rloo.advantages(jax.tree.map(
      lambda x: jnp.asarray(x[enter]), whole.rollout))
  np.testing.assert_allclose(some.advantages[enter], want.advantages, atol=1e-6)
  assert metrics['learned'] == enter.mean()
  same = ('reward', 'success', 'truncated', 'outcome_wrong', 'sampler_gap',
          'completion_tokens', 'kl_k1', 'tokens')
  assert {k: metrics[k] for k in same} == {k: before[k] for k in same}


def test_a_rollout_of_which_nothing_enters_ends_the_run(scripted):
  with pytest.raises(alarms.Halt, match=r'no row .* 25% met no stop'):
    drawn(scripted(learn_from=('truncated',), mask_truncated=True))


def test_kinds_are_refused_before_anything_is_sampled():
  with pytest.raises(ValueError, match="learn_from has no kind 'nothing'"):
    rollouts.make(
        GAME, tokenizer=WORDS, model=tiny.model(), advantages=ppo.advantages,
        ref_params=tiny.initialised(), learn_from=('nothing',), prompts=1)


POOLED = dict(verifiers=dict(workers=1, deadline=60.0), sample_rows=3)


def test_verifiers_in_other_processes_find_the_same(scripted):
  """Of completions that are sampled three at a time."""
  here, elsewhere = drawn(scripted()), drawn(scripted(tries=1, **POOLED))
  jax.tree.map(np.testing.assert_array_equal, elsewhere[0], here[0])
  same = lambda told: {k: v for k, v in told.items() if not k.endswith(
      ('_seconds', 'sampling_padding'))}  # other batches have other padding
  assert same(elsewhere[1]) == same(here[1])


def test_a_verifier_that_crashes_raises_no_other_rate(scripted):
  """And its rows are in no loss, unless they are given a reward."""
  plain, before = drawn(scripted())
  fussy = GAME._replace(respond=misjudging.fussy)
  found, metrics = drawn(scripted(fussy, **POOLED))
  bad = np.array([kind == 'unparsable' for kind in KINDS])
  assert metrics['outcome_crashed'] == before['outcome_unparsable'] == 2 / 8
  assert metrics['outcome_unparsable'] == 0
  assert metrics['unjudged'] == 2 / 8 and before['unjudged'] == 0
  for kind in ('correct', 'wrong', 'truncated', 'timed_out'):
    assert metrics[f'outcome_{kind}'] == before[f'outcome_{kind}']
  paid = plain.rollout.rewards.sum(1) / tiny.ROLLOUTS['reward_scale']
  assert metrics['reward'] == pytest.approx(paid[~bad].mean())
  assert metrics['learned'] == (~bad).mean()
  np.testing.assert_array_equal(
      found.mask, plain.mask & ~bad[:, None])
  for array in jax.tree.leaves(found):
    assert np.isfinite(array).all()
  punished, _ = drawn(scripted(
      fussy, verifiers=POOLED['verifiers'] | {'failed_reward': -7.5},
      learn_from=('correct', 'wrong', 'truncated', 'crashed')))
  assert punished.mask[bad].any(1).all()
  np.testing.assert_allclose(
      punished.rollout.rewards.sum(1)[bad],
      -7.5 * tiny.ROLLOUTS['reward_scale'], rtol=1e-6)
