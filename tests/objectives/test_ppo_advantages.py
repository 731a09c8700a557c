"""PPO's advantages: GAE, whitening and the KL in the reward."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.objectives import ppo
from rlft.ops import advantages, kl
from rlft.types import Rollout

MASK = jnp.array([[False, True, True, True, True],
                  [False, True, False, False, True],
                  [False, False, True, False, False]])


def rollout_of(mask=MASK, **arrays):
  """Random floats, unless given."""
  keys = jax.random.split(jax.random.key(0), 4)
  names = ('rewards', 'log_probs', 'ref_log_probs', 'values')
  drawn = {name: jax.random.normal(key, mask.shape)
           for name, key in zip(names, keys, strict=True)}
  return Rollout(
      tokens=jnp.zeros(mask.shape, int), mask=mask,
      turn_ids=jnp.where(mask, 0, -1), prompt_ids=jnp.arange(mask.shape[0]),
      weights=mask.astype(float), sampler_log_probs=jnp.zeros(mask.shape),
      truncated=jnp.zeros(mask.shape[0], bool), **drawn | arrays)


def test_advantages_are_gae():
  rollout = rollout_of()
  for kwargs in ({'discount': 0.9, 'lam': 0.8}, {'discount': 1., 'lam': 0.}):
    got = ppo.advantages(rollout, whiten=False, **kwargs)
    want = advantages.gae(rollout.rewards, rollout.values, MASK, **kwargs)
    np.testing.assert_allclose(got.advantages, want[0], rtol=1e-6)
    np.testing.assert_allclose(got.returns, want[1], rtol=1e-6)
  got = ppo.advantages(rollout, whiten=False)
  want = advantages.gae(
      rollout.rewards, rollout.values, MASK, discount=1., lam=0.95)
  np.testing.assert_allclose(got.advantages, want[0], rtol=1e-6)


def test_only_the_advantages_are_whitened():
  rollout = rollout_of()
  white = ppo.advantages(rollout)
  plain = ppo.advantages(rollout, whiten=False)
  chosen = np.asarray(white.advantages)[np.asarray(MASK)]
  np.testing.assert_allclose([chosen.mean(), chosen.var()], [0., 1.], atol=1e-5)
  assert np.abs(np.asarray(plain.advantages)[np.asarray(MASK)].mean()) > 0.1
  np.testing.assert_array_equal(white.returns, plain.returns)


def test_whitened_rewards_keep_their_mean_over_deviation():
  """Of the tokens that count, with the KL in them; off unless asked for."""
  rollout = rollout_of()
  cost = 0.1 * (rollout.log_probs - rollout.ref_log_probs)
  paid = np.asarray(rollout.rewards - cost)
  scale = paid[np.asarray(MASK)].std()
  got = ppo.advantages(rollout, kl_reward_coef=0.1, whiten_rewards=True)
  want = ppo.advantages(rollout._replace(rewards=jnp.asarray(paid / scale)))
  np.testing.assert_allclose(got.returns, want.returns, atol=1e-5)
  plain = ppo.advantages(rollout, kl_reward_coef=0.1)
  assert np.abs(got.returns - plain.returns).max() > 0.01


def test_kl_in_the_reward_by_hand():
  """Two tokens, one off: k1 = 0.5 and -1 nats, coefficient 0.1."""
  mask = jnp.array([[True, False, True]])
  rollout = rollout_of(
      mask, log_probs=jnp.array([[-1., -5., -2.]]),
      ref_log_probs=jnp.array([[-1.5, -1., -1.]]),
      rewards=jnp.array([[0., 0., 1.]]), values=jnp.zeros((1, 3)))
  got = ppo.advantages(
      rollout, lam=1., whiten=False, kl_reward_coef=0.1)
  # last: 1 + 0.1; first: -0.05 + 1.1
  np.testing.assert_allclose(got.returns, [[1.05, 0., 1.1]], rtol=1e-6)
  assert np.array_equal(got.rollout.rewards, rollout.rewards)


def test_kl_in_the_reward_is_nothing_at_the_reference():
  rollout = rollout_of()
  rollout = rollout._replace(ref_log_probs=rollout.log_probs)
  for name in kl.ESTIMATORS:
    got = ppo.advantages(rollout, kl_reward_coef=5., kl_estimator=name)
    np.testing.assert_array_equal(
        got.advantages, ppo.advantages(rollout).advantages)


def test_kl_in_the_reward_estimators_differ():
  rollout = rollout_of()
  results = [ppo.advantages(
      rollout, whiten=False, kl_reward_coef=1., kl_estimator=name).returns
      for name in kl.ESTIMATORS]
  assert not np.allclose(results[0], results[1])
  assert not np.allclose(results[1], results[2])


def test_unknown_estimator_lists_the_known():
  with pytest.raises(ValueError, match='known: k1, k2, k3'):
    ppo.advantages(rollout_of(), kl_estimator='k4')
