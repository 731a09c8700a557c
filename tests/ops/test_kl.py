"""The estimators by exact summation over a small vocabulary."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.ops import kl

KEY = jax.random.key(0)


def pair(scale=1., rows=5, size=7):
  """Logits of a policy and of a reference, (rows, size)."""
  a, b = jax.random.normal(KEY, (2, rows, size))
  return a, a + scale * b


def divergence(p, q):
  """KL(p || q) in float64, straight from the definition."""
  p, q = (np.exp(np.asarray(x, np.float64)) for x in (p, q))
  p, q = (x / x.sum(-1, keepdims=True) for x in (p, q))
  return (p * np.log(p / q)).sum(-1)


def expected(estimator, logits, ref_logits):
  """E over x ~ policy of the estimator, by enumeration."""
  log_p, log_q = jax.nn.log_softmax(logits), jax.nn.log_softmax(ref_logits)
  return (jnp.exp(log_p) * estimator(log_p, log_q)).sum(-1)


def test_one_token_by_hand():
  p, q = jnp.log(jnp.array([0.5])), jnp.log(jnp.array([0.25]))
  # r = 1/2, -log r = log 2
  np.testing.assert_allclose(kl.k1(p, q), np.log(2), rtol=1e-6)
  np.testing.assert_allclose(kl.k2(p, q), np.log(2) ** 2 / 2, rtol=1e-6)
  np.testing.assert_allclose(kl.k3(p, q), np.log(2) - 0.5, rtol=1e-6)


def test_exact_is_the_definition():
  p, q = pair()
  np.testing.assert_allclose(kl.exact(p, q), divergence(p, q), rtol=1e-4)
  assert np.abs(divergence(p, q) - divergence(q, p)).min() > 1e-3


@pytest.mark.parametrize('name', ['k1', 'k3'])
def test_k1_and_k3_expect_the_kl_of_policy_from_reference(name):
  p, q = pair()
  np.testing.assert_allclose(
      expected(kl.estimator(name), p, q), divergence(p, q), rtol=1e-4)


def test_k2_is_biased_far_away_and_right_nearby():
  p, q = pair(scale=2.)
  assert (np.abs(expected(kl.k2, p, q) / divergence(p, q) - 1) > 0.05).any()
  p, q = pair(scale=0.01)
  np.testing.assert_allclose(
      expected(kl.k2, p, q), divergence(p, q), rtol=0.02)


def test_signs():
  p, q = (jax.nn.log_softmax(x) for x in pair())
  assert (kl.k1(p, q) < 0).any()
  assert (kl.k2(p, q) >= 0).all()
  assert (kl.k3(p, q) >= 0).all()
  for estimator in kl.ESTIMATORS.values():
    assert not estimator(p, p).any()


def test_k3_keeps_its_digits_near_equal_policies():
  log_r = np.float64(1e-4)
  got = kl.k3(jnp.zeros(1), jnp.full(1, log_r, jnp.float32))
  np.testing.assert_allclose(got, log_r ** 2 / 2, rtol=1e-2)


def test_gradients_in_a_loss():
  """E[grad k] on fixed samples: nothing, the KL, and the KL the other way."""
  p, q = pair()
  weights = jax.nn.softmax(p)  # of the samples: not differentiated

  def of_samples(estimator):
    return jax.grad(lambda logits: (weights * estimator(
        jax.nn.log_softmax(logits), jax.nn.log_softmax(q))).sum())(p)

  def true(divergence):
    return jax.grad(lambda logits: divergence(logits).sum())(p)

  close = {'atol': 1e-6, 'rtol': 1e-4}
  np.testing.assert_allclose(of_samples(kl.k1), jnp.zeros_like(p), atol=1e-6)
  np.testing.assert_allclose(
      of_samples(kl.k2), true(lambda x: kl.exact(x, q)), **close)
  np.testing.assert_allclose(
      of_samples(kl.k3), true(lambda x: kl.exact(q, x)), **close)
  assert np.abs(of_samples(kl.k2) - of_samples(kl.k3)).max() > 0.01


def test_k3_and_k2_gradients_agree_near_the_reference():
  q = jnp.full(1, -1.)
  grads = [jax.grad(lambda p, f=f: f(p, q).sum())(q + 1e-3)
           for f in (kl.k2, kl.k3)]
  np.testing.assert_allclose(grads[0], grads[1], rtol=1e-2)
  assert grads[0][0] > 0  # a token above its reference is pushed down


def test_a_word_that_the_policy_excludes_costs_nothing():
  p = jnp.array([0., 0., -jnp.inf])
  np.testing.assert_allclose(
      kl.exact(p, jnp.zeros(3)), np.log(1.5), rtol=1e-6)
  assert kl.exact(jnp.zeros(3), p) == jnp.inf
  assert kl.exact(p, p) == 0.


def test_unknown_estimator_lists_the_known():
  assert kl.estimator('k2') is kl.k2
  with pytest.raises(ValueError, match="'k4'; known: k1, k2, k3"):
    kl.estimator('k4')
