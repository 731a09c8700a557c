"""KL in the reward: who pays, how much, and in which direction."""
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.rewards import kl as kl_reward

REWARDS = jnp.array([[0., 0., 1.]])
LOG_PROBS = jnp.array([[-9., -1., -2.]])
REF_LOG_PROBS = jnp.array([[-1., -3., -1.5]])
MASK = jnp.array([[False, True, True]])


@pytest.mark.parametrize('estimator, first, last', [
    # log r = ref - policy = -2 and 0.5
    ('k1', 2., -0.5),
    ('k2', 2., 0.125),
    ('k3', np.exp(-2.) + 1., np.exp(0.5) - 1.5),
])
def test_by_hand(estimator, first, last):
  got = kl_reward.penalise(
      REWARDS, LOG_PROBS, REF_LOG_PROBS, MASK, coef=0.1, estimator=estimator)
  np.testing.assert_allclose(
      got, [[0., -0.1 * first, 1. - 0.1 * last]], rtol=1e-5)


def test_default_is_k1():
  got = kl_reward.penalise(REWARDS, LOG_PROBS, REF_LOG_PROBS, MASK, coef=1.)
  np.testing.assert_allclose(got, [[0., -2., 1.5]])


def test_no_coefficient_no_change():
  got = kl_reward.penalise(REWARDS, LOG_PROBS, REF_LOG_PROBS, MASK, coef=0.)
  assert np.array_equal(got, REWARDS)


def test_unknown_estimator_lists_the_known():
  with pytest.raises(ValueError, match='known: k1, k2, k3'):
    kl_reward.penalise(
        REWARDS, LOG_PROBS, REF_LOG_PROBS, MASK, coef=1., estimator='kl')


@pytest.mark.parametrize('measured, want', [
    (6.3, 1 + 0.05 * 0.1),  # a little more than the target of 6 nats
    (60., 1 + 0.2 * 0.1),  # far beyond: held
    (0., 1 - 0.2 * 0.1),
    (6., 1.),
])
def test_the_coefficient_follows_by_hand(measured, want):
  """A tenth of the horizon."""
  got = kl_reward.adapted(0.5, measured, target=6., horizon=1000, rows=100)
  assert got == pytest.approx(0.5 * want)
