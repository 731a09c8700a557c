"""Sampling goes on until every group has something to tell."""
import functools
import inspect
import json

import jax
import numpy as np
import pytest

from rlft import binding, envs, parts
from rlft.episodes import Episode
from rlft.experience import dynamic, rollouts
from rlft.objectives import grpo, rloo
from rlft.ops import alarms
from rlft.types import Task, Turn
from tests import tiny

GAME = envs.bind(
    'general_points', text='compact', mode='corrected', split='train')
DULL, TELLS = (1.0, 1.0), (1.0, 0.0)


def episode(*rewards, name=''):
  turns = [Turn('', reward, True, {'wrong': reward}) for reward in rewards]
  return Episode(Task(name, None), [], [], [], [], [], [], [], turns)


def groups_of(name, *pairs):
  return [[episode(reward, name=f'{name}{i}') for reward in pair]
          for i, pair in enumerate(pairs)]


def scripted(*batches):
  """play(key) and the keys that it was given."""
  keys = []

  def play(key):
    keys.append(jax.random.key_data(key).tolist())
    return groups_of('abc'[len(keys) - 1], *batches[len(keys) - 1])

  return play, keys


def names(drawn):
  return [group[0].task.prompt for group in drawn.groups]


def filled(play, enters=lambda episode: True, max_batches=3):
  return dynamic.filled(
      play, enters, jax.random.key(7), max_batches=max_batches)


def test_it_stops_as_soon_as_there_are_enough():
  play, keys = scripted([DULL, TELLS], [TELLS, TELLS])
  drawn = filled(play)
  assert names(drawn) == ['a1', 'b0'] and drawn.full == 2
  assert len(drawn.played) == 8  # what was not taken was sampled all the same
  assert drawn.told == {
      'batches_drawn': 2, 'groups_drawn': 4, 'groups_found': 3}
  assert keys == [jax.random.key_data(jax.random.fold_in(
      jax.random.key(7), a)).tolist() for a in range(2)]


def test_what_is_missing_does_not_count():
  play, _ = scripted([DULL, TELLS, DULL], [DULL] * 3)
  drawn = filled(play, max_batches=2)
  assert names(drawn) == ['a1', 'a0', 'a2'] and drawn.full == 1
  assert drawn.told['groups_found'] == 1 and drawn.told['batches_drawn'] == 2


def test_nothing_to_tell_ends_the_run():
  play, keys = scripted([DULL] * 2, [DULL] * 2)
  with pytest.raises(alarms.Halt, match='none of the 4 groups of 2 batches has '
                     'unequal rewards'):
    filled(play, max_batches=2)
  assert len(keys) == 2


def test_rows_that_may_not_enter_are_named_where_nothing_is_left():
  """Unequal rewards, but the rows that were paid do not enter."""
  play, _ = scripted([TELLS] * 2)
  with pytest.raises(alarms.Halt, match=r'too few rows may enter .*50% do'):
    filled(play, lambda e: e.turns[-1].reward == 0, max_batches=1)


def test_rows_that_may_not_enter_tell_nothing():
  group = [episode(1.0), episode(0.0), episode(1.0)]
  assert dynamic.teaches(group, lambda e: True)
  assert not dynamic.teaches(group, lambda e: e is not group[1])
  assert not dynamic.teaches(group, lambda e: False)
  # what counts is the return of all turns
  assert not dynamic.teaches(
      [episode(-1.0, 5.0), episode(4.0)], lambda e: True)


def test_the_config_may_say_what_it_may_of_rollouts():
  known = [set(inspect.signature(f).parameters) for f in (
      dynamic.make, rollouts.make)]
  assert known[0] == known[1] | {'max_batches'}
  with pytest.raises(ValueError, match='takes no batches; known: env, '):
    parts.bind('experience', 'make', 'dynamic', batches=2)


def even(task, completions):
  """Pays for an even number of characters, which luck decides."""
  return Turn('', float(len(completions[-1]) % 2 == 0), True, {'wrong': 0.0})


def source(**changes):
  return dynamic.make(GAME._replace(respond=even), **dict(
      tiny.ROLLOUTS, tokenizer=tiny.words(), model=tiny.model(), tries=1,
      advantages=grpo.advantages, ref_params=tiny.initialised()) | changes)


def drawn(made, seed=0):
  state, experience, metrics = made.next(
      made.init(), tiny.initialised(), {}, jax.random.key(seed))
  assert json.loads(json.dumps(state)) == made.init()
  return jax.device_get(experience), metrics


@functools.cache
def dynamically(**changes):
  return drawn(source(**changes))


def test_a_whole_batch_of_groups_that_tell():
  experience, metrics = dynamically(max_batches=20)
  returns = experience.rollout.rewards.sum(1).reshape(-1, 2)
  assert (returns[:, 0] != returns[:, 1]).all() and len(returns) == 4
  assert experience.mask.any(1).all() and metrics['learned'] == 1
  assert experience.advantages[experience.mask].all()
  assert metrics['groups_drawn'] == 4 * metrics['batches_drawn'] >= 8
  assert 4 <= metrics['groups_found'] < metrics['groups_drawn']
  assert metrics['samples'] == 2 * metrics['groups_drawn']
  again, _ = drawn(source(max_batches=20))
  jax.tree.map(np.testing.assert_array_equal, again, experience)


def test_too_few_groups_leave_rows_that_do_not_count():
  """And the credit of the rest is that of a batch without them."""
  _, whole = dynamically(max_batches=20)
  experience, metrics = dynamically(max_batches=1)
  assert whole['groups_found'] > metrics['groups_found'] > 0
  counts = experience.mask.any(1)
  assert counts.sum() == 2 * metrics['groups_found'] < len(counts)
  assert metrics['learned'] == counts.mean()
  assert not experience.advantages[~counts].any()


def test_groups_of_one_are_refused():
  with pytest.raises(ValueError, match='dynamic compares the'):
    source(group=1, advantages=rloo.advantages)


def test_a_config_reaches_all_of_it():
  config = tiny.rl_config(1)
  config.objective = dict(name='grpo')
  config.advantages = {}
  config.experience = dict(tiny.ROLLOUTS, name='dynamic', max_batches=2)
  config.experience.update(
      mask_truncated=True, learn_from=('correct', 'wrong'), sample_rows=2,
      verifiers=dict(workers=1, deadline=1.0))
  build = functools.partial(
      binding.build_source, config, tiny.model(), tiny.words(), {})
  assert build().init() == 0
  config.experience.verifiers.deadline = -1.0
  with pytest.raises(ValueError, match=r'experience\.verifiers: workers=1, de'):
    build()
