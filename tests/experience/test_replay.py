"""A part of every batch is of earlier updates, as it was sampled then."""
import functools
import inspect
import json

import jax
import numpy as np
import pytest

from rlft import binding, envs, parts, startup, train
from rlft.adapters import value_head
from rlft.experience import replay, rollouts
from rlft.objectives import ppo
from rlft.training import metrics as log
from rlft.training import seal
from tests import tiny

GAME = envs.bind(
    'general_points', text='compact', mode='corrected', split='train')
GROUP = tiny.ROLLOUTS['group']


@functools.cache
def params(seed=0):
  policy = tiny.initialised(seed)['policy']
  return {'policy': policy,
          'critic': tiny.noised(value_head.make(policy), 0.1)}


def source(make=replay.make, **changes):
  return make(GAME, **dict(
      tiny.ROLLOUTS, tokenizer=tiny.words(), model=tiny.model(), tries=1,
      advantages=ppo.advantages, ref_params=tiny.initialised()) | changes)


def drawn(made, updates, state=None, begin=0, thaw=lambda state: state):
  """Batches and metrics of so many updates, each by another policy."""
  state, found = made.init() if state is None else state, []
  for n in range(begin, begin + updates):
    state, experience, metrics = made.next(
        thaw(state), params(n), {}, jax.random.key(100 + n))
    found.append((jax.device_get(experience), metrics))
  return state, found


@functools.cache
def replayed():
  """Six updates: 2 of 4 groups are sampled anew, the rest of 3 updates."""
  return drawn(source(fresh=0.5, max_staleness=3), 6)


def rows_of(experience):
  """What every row is, by its bytes; which group it is in is told apart."""
  arrays = jax.tree.leaves(experience._replace(
      rollout=experience.rollout._replace(prompt_ids=np.zeros(
          len(experience.tokens), np.int32))))
  return [b''.join(np.ascontiguousarray(x[i]).tobytes() for x in arrays)
          for i in range(len(experience.tokens))]


def timeless(metrics):
  return {k: v for k, v in metrics.items() if not k.endswith('_seconds')}


def test_all_fresh_is_a_rollout():
  """The same bits; nothing is kept, and nothing is stale."""
  state, found = drawn(source(fresh=1.0, max_staleness=0, prompts=2), 2)
  assert state == {'rollouts': 0, 'update': 2, 'kept': []}
  _, want = drawn(source(rollouts.make, prompts=2), 2)
  for (experience, metrics), (other, told) in zip(found, want, strict=True):
    jax.tree.map(np.testing.assert_array_equal, experience, other)
    own = timeless(metrics)
    assert (own.pop('staleness'), own.pop('staleness_largest'),
            own.pop('groups_drawn')) == (0, 0, 2)
    assert own == timeless(told)


def test_a_batch_is_whole_from_the_first():
  _, found = replayed()
  for n, (experience, metrics) in enumerate(found):
    assert experience.tokens.shape == (4 * GROUP, 80)
    assert experience.rollout.prompt_ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert metrics['groups_drawn'] == (2 if n else 4)
    assert len(set(rows_of(experience))) == 4 * GROUP  # none twice
    assert metrics['learned'] == 1 and metrics['advantage_largest'] > 0


def test_a_replayed_row_is_what_it_was_and_its_age_is_counted():
  """To the bit: the log-probs of the policy that wrote it, first of all."""
  _, found = replayed()
  born = {}  # row -> the update at which it was first seen, and its place
  for n, (experience, metrics) in enumerate(found):
    ages = []
    for i, row in enumerate(rows_of(experience)):
      at, place = born.setdefault(row, (n, i))
      ages.append(n - at)
      before = found[at][0].rollout
      np.testing.assert_array_equal(
          experience.rollout.log_probs[i], before.log_probs[place])
    new = ages[:2 * GROUP] if n else ages
    old = ages[len(new):]
    assert set(new) == {0} and all(1 <= age <= 3 for age in old)
    assert metrics['staleness'] == pytest.approx(np.mean(ages))
    assert metrics['staleness_largest'] == max(ages)
  assert {m['staleness_largest'] for _, m in found} >= {0, 1, 2}


def test_log_probs_are_of_the_policy_that_sampled():
  """Update 1 has another policy; rows of update 0 keep theirs."""
  _, found = replayed()
  first, second = found[0][0], found[1][0]
  score = rollouts.scorer(tiny.model(), tiny.ROLLOUTS['temperature'])
  stale = slice(2 * GROUP, None)
  for seed, same in ((0, True), (1, False)):
    log_p, _, _ = score(params(seed), tiny.initialised(), second.tokens)
    log_p = np.where(second.mask, log_p, 0.0)
    assert np.allclose(second.rollout.log_probs[stale], log_p[stale],
                       atol=1e-5) == same
    assert np.allclose(second.rollout.log_probs[:2 * GROUP],
                       log_p[:2 * GROUP], atol=1e-5) != same
  assert {*rows_of(second)[2 * GROUP:]} <= {*rows_of(first)}


def test_a_resumed_run_repeats_exactly():
  """From the state as a checkpoint holds it: JSON, at any update."""
  made = source(fresh=0.5, max_staleness=3)
  frozen = lambda state: json.loads(json.dumps(state))
  _, whole = replayed()
  state, begun = drawn(made, 2)
  end, rest = drawn(source(fresh=0.5, max_staleness=3), 4, frozen(state), 2)
  assert end == replayed()[0] == frozen(end)
  for one, other in zip([*begun, *rest], whole, strict=True):
    jax.tree.map(np.testing.assert_array_equal, one[0], other[0])
    assert timeless(one[1]) == timeless(other[1])


def test_what_is_too_old_is_dropped():
  state, found = drawn(source(fresh=0.5, max_staleness=1), 3)
  assert [one['update'] for one in state['kept']] == [2]
  assert [m['staleness'] for _, m in found] == [0, 0.5, 0.5]
  # 2 of an age of 1 and no more: each is taken once
  assert {*rows_of(found[2][0])[2 * GROUP:]} == {
      *rows_of(found[1][0])[:2 * GROUP]}


def test_several_rollouts_are_told_as_one():
  told = [dict(tokens=3.0, reward=1.0, sampler_gap=0.1, rollout_seconds=1.0),
          dict(tokens=5.0, reward=-2.0, sampler_gap=0.3, rollout_seconds=2.0)]
  assert replay.merged(told) == dict(
      tokens=8.0, reward=-0.5, sampler_gap=0.3, rollout_seconds=3.0)
  _, found = replayed()
  assert found[0][1]['samples'] == 2 * found[1][1]['samples'] == 4 * GROUP


@pytest.mark.parametrize('settings, complaint', [
    (dict(fresh=0.0), 'fresh is 0.0, of 4 prompts: give a share'),
    (dict(fresh=1.5), 'give a share of them above 0, up to 1'),
    (dict(fresh=0.4), 'that is a whole number'),
    (dict(fresh=0.25, max_staleness=2), 'max_staleness is 2: 1 fresh groups'),
    (dict(fresh=0.5, max_staleness=0), 'max_staleness is 0: 2 fresh groups')])
def test_what_cannot_fill_a_batch_is_refused(settings, complaint):
  with pytest.raises(ValueError, match=complaint) as caught:
    source(**settings)
  assert '\n' not in str(caught.value)


def test_a_stale_ratio_is_no_fault():
  """Neither where a run begins, which is all fresh, nor where it goes on."""
  data = dict(sampler_gap=0.0, sampler_gap_mean=0.0, kl_k1=0.0,
              reference_gap=0.0)
  seen = dict(first_ratio_max=1.5, first_approx_kl=0.1)
  assert 'ratio is not 1' in startup.wrong(data, seen, 'float32')
  assert startup.wrong(data | dict(staleness=0.0), seen, 'float32')
  assert not startup.wrong(data | dict(staleness=0.5), seen, 'float32')
  assert 'disagree' in startup.wrong(
      data | dict(staleness=0.5, sampler_gap=9.0), seen, 'float32')


def test_a_config_reaches_all_of_it():
  known = [set(inspect.signature(f).parameters) for f in (
      replay.make, rollouts.make)]
  assert known[0] == known[1] | {'fresh', 'max_staleness'}
  config = tiny.rl_config(1)
  config.objective, config.advantages = dict(name='grpo'), {}
  config.experience = dict(
      tiny.ROLLOUTS, name='replay', fresh=0.25, max_staleness=4)
  made = binding.build_source(config, tiny.model(), tiny.words(), {})
  assert made.init() == {'rollouts': 0, 'update': 0, 'kept': []}
  with pytest.raises(ValueError, match='takes no capacity; known: env, '):
    parts.bind('experience', 'make', 'replay', capacity=1)


@pytest.mark.slow
def test_a_run_that_is_interrupted_ends_as_one_that_is_not(tmp_path):
  """Through a checkpoint, in which the buffer is."""
  config = tiny.rl_config(4)
  config.evals, config.log.every = {}, 1
  config.experience.update(name='replay', fresh=0.5, max_staleness=2)

  def run(folder, *ends):
    for config.num_steps in ends:
      train.run(config, tmp_path / folder)
    rows = log.read(tmp_path / folder / 'metrics.jsonl')
    return seal.sealed(tmp_path / folder, 4), [
        {k: v for k, v in row.items() if 'second' not in k
         and k != 'compilations'} for row in rows]

  (whole, rows), (parts, others) = run('whole', 4), run('parts', 3, 4)
  assert whole['fingerprints'] == parts['fingerprints']
  assert whole['source'] == parts['source']
  assert len(whole['source']['kept']) == 2
  assert rows == others
  assert [row['staleness'] > 0 for row in rows] == [False, True, True, True]
  assert rows[1]['first_ratio_max'] > rows[0]['first_ratio_max']
