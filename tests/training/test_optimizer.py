"""Schedules by hand, and two groups that do not touch one another."""
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft import binding
from rlft.training import optimizer

PARAMS = {'policy': {'w': jnp.array([1.0, -2.0])},
          'critic': {'w': jnp.array([0.5, 4.0])}}
GRADS = {'policy': {'w': jnp.array([0.3, -0.4])},
         'critic': {'w': jnp.array([30.0, 40.0])}}


@functools.cache
def moved(count=1, scale=1.0, **options):
  """The parameters' total change in `count` steps of constant gradients."""
  tx = binding.build_optimizer(
      **(dict(num_steps=10, learning_rate=0.1) | options))

  @jax.jit
  def run(params, grads):
    state = tx.init(params)
    for _ in range(count):
      changes, state = tx.update(grads, state, params)
      params = jax.tree.map(jnp.add, params, changes)
    return params

  grads = {**GRADS, 'critic': {'w': scale * GRADS['critic']['w']}}
  after = run(PARAMS, grads)
  return {k: np.asarray(after[k]['w'] - PARAMS[k]['w']) for k in PARAMS}


def test_the_first_step_of_adam_has_the_size_of_the_rate():
  for change in moved().values():
    np.testing.assert_allclose(np.abs(change), 0.1, rtol=1e-4)
  np.testing.assert_allclose(
      np.sign(moved()['policy']), -np.sign(GRADS['policy']['w']))


def test_the_critics_rate_changes_the_critic_alone():
  fast = moved(critic_learning_rate=0.3)
  np.testing.assert_array_equal(fast['policy'], moved()['policy'])
  np.testing.assert_allclose(fast['critic'], 3 * moved()['critic'], rtol=1e-4)


def test_groups_are_clipped_apart():
  """A critic a million times as steep leaves the policy's step as it is."""
  calm, steep = (moved(eps=0.1, scale=s) for s in (1.0, 1e6))
  np.testing.assert_array_equal(calm['policy'], steep['policy'])


def test_clipping_by_hand():
  """Norm 50 clipped to 5: gradients 3, 4; a step of g / (g + eps)."""
  change = moved(clip_norm=5.0, eps=1.0)['critic']
  np.testing.assert_allclose(change, [-0.1 * 3 / 4, -0.1 * 4 / 5], rtol=1e-4)


def test_weight_decay_by_hand():
  change = moved(weight_decay=0.5)['policy']
  np.testing.assert_allclose(
      change, [-0.1 - 0.05 * 1.0, 0.1 + 0.05 * 2.0], rtol=1e-4)


@pytest.mark.parametrize('options', [
    dict(b1=0.5), dict(b2=0.5), dict(eps=0.1), dict(eps_root=0.1),
    dict(warmup_steps=3), dict(schedule='log_warmup', warmup_steps=3),
    dict(schedule='cosine'), dict(clip_norm=0.2, eps=0.1)])
def test_every_option_has_an_effect(options):
  """On gradients that change, or equal moments would hide their decay."""

  def path(**options):
    tx = binding.build_optimizer(
        **(dict(num_steps=10, learning_rate=0.1) | options))
    params, state = {'policy': PARAMS['policy']}, None
    for scale in (1.0, -0.5, 0.1):
      state = tx.init(params) if state is None else state
      grads = {'policy': {'w': scale * GRADS['policy']['w']}}
      changes, state = tx.update(grads, state, params)
      params = jax.tree.map(jnp.add, params, changes)
    return np.asarray(params['policy']['w'])

  plain = path(**({'eps': 0.1} if 'clip_norm' in options else {}))
  assert np.abs(path(**options) - plain).min() > 1e-3


def rates(name, warmup, steps, count):
  schedule = optimizer.SCHEDULES[name](0.8, warmup, steps)
  return [float(schedule(jnp.asarray(n))) for n in range(count)]


def test_constant_schedule_by_hand():
  assert rates('constant', 4, 100, 6) == pytest.approx(
      [0, 0.2, 0.4, 0.6, 0.8, 0.8])
  assert rates('constant', 0, 100, 2) == pytest.approx([0.8, 0.8])


def test_cosine_schedule_by_hand():
  got = rates('cosine', 2, 6, 7)
  want = [0, 0.4] + [0.4 * (1 + math.cos(math.pi * n / 4)) for n in range(5)]
  assert got == pytest.approx(want, abs=1e-6)


def test_cosine_schedule_of_a_run_shorter_than_its_warm_up_is_finite():
  assert np.isfinite(rates('cosine', 10, 3, 3)).all()


def test_log_warmup_by_hand():
  """0.8 ln t / ln 8 for t = 1, 2, ...: a third of it per doubling."""
  got = rates('log_warmup', 8, 100, 10)
  assert got[0] == 0
  assert got[1] == pytest.approx(0.8 / 3)
  assert got[3] == pytest.approx(0.8 * 2 / 3)
  assert got[7:] == pytest.approx([0.8] * 3)


def test_log_warmup_without_warm_up_is_constant():
  assert rates('log_warmup', 0, 100, 2) == pytest.approx([0.8, 0.8])


def test_a_horizon_ends_the_schedule_later_than_the_run():
  """Half of the run is a quarter of a horizon twice as long."""
  here = moved(count=5, schedule='cosine', num_steps=5)
  there = moved(count=5, schedule='cosine', num_steps=5, horizon=10)
  same = moved(count=5, schedule='cosine', num_steps=10)
  np.testing.assert_array_equal(there['policy'], same['policy'])
  assert (np.abs(there['policy']) > np.abs(here['policy'])).all()


def test_an_unknown_schedule_lists_the_known():
  with pytest.raises(ValueError, match="no schedule 'step'; known: constant"):
    binding.build_optimizer(num_steps=1, learning_rate=0.1, schedule='step')


def test_a_policy_alone_needs_no_critic():
  tx = binding.build_optimizer(num_steps=1, learning_rate=0.1)
  params = {'policy': PARAMS['policy']}
  changes, _ = jax.jit(tx.update)(
      {'policy': GRADS['policy']}, tx.init(params), params)
  assert set(changes) == {'policy'}
