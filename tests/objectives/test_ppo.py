"""PPO's loss: what it is equal to, and every option's effect, by hand."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.objectives import ppo
from rlft.ops import kl, masked
from rlft.types import Experience, Outputs, Rollout
from tests import compiled

ppo = compiled.objective(ppo)
B, T, V = 3, 5, 4
KEYS = jax.random.split(jax.random.key(0), 9)
TOKENS = jax.random.randint(KEYS[0], (B, T), 0, V)
MASK = jnp.array([[False, True, True, True, True],
                  [False, True, False, False, True],
                  [False, False, True, False, False]])
LOGITS = jax.random.normal(KEYS[1], (B, T, V))


@jax.jit
def outputs_of(logits, tokens=TOKENS, values=None):
  log_p = jax.nn.log_softmax(logits)
  chosen = jnp.take_along_axis(log_p, tokens[..., None], -1)[..., 0]
  values = jnp.zeros_like(chosen) if values is None else values
  entropy = -(jnp.exp(log_p) * log_p).sum(-1)
  return Outputs(chosen, entropy, values, chosen[..., None])


def experience_of(log_probs, gains, mask, *, ref_log_probs=None, values=None,
                  returns=None, rewards=None):
  zeros = jnp.zeros_like(log_probs)

  def default(x):
    return zeros if x is None else x

  rollout = Rollout(
      tokens=jnp.zeros(mask.shape, int), mask=mask,
      turn_ids=jnp.where(mask, 0, -1), rewards=default(rewards),
      prompt_ids=jnp.arange(mask.shape[0]), log_probs=log_probs,
      ref_log_probs=default(ref_log_probs), values=default(values),
      weights=mask.astype(float), sampler_log_probs=log_probs,
      truncated=jnp.zeros(mask.shape[0], bool))
  return Experience(rollout, gains, default(returns))


def rollout_of():
  log_probs = outputs_of(LOGITS).log_probs
  return experience_of(
      log_probs, log_probs, MASK, ref_log_probs=log_probs - 0.5,
      values=jax.random.normal(KEYS[2], (B, T)),
      rewards=jax.random.normal(KEYS[3], (B, T))).rollout


def one_token(log_ratio, gain, **kwargs):
  """(loss, gradient to the log-probability, metrics) of a single token."""
  (value, metrics), grad = one_token_of(
      np.full((1, 1), -1. + log_ratio, np.float32),
      np.full((1, 1), gain, np.float32), tuple(kwargs.items()))
  return value, grad[0, 0], metrics


@functools.partial(jax.jit, static_argnums=2)
def one_token_of(log_prob, gain, options):
  def loss(log_prob):
    new = Outputs(log_prob, log_prob * 0 + 1.5, log_prob * 0,
                  log_prob[..., None])
    return ppo.loss(new, experience_of(
        jnp.full((1, 1), -1.), gain, jnp.ones((1, 1), bool)), **dict(options))
  return jax.value_and_grad(loss, has_aux=True)(log_prob)


# ---- identities


def test_on_policy_gradient_is_the_policy_gradient_with_baseline():
  gains = ppo.advantages(rollout_of(), whiten=False).advantages
  old = outputs_of(LOGITS).log_probs

  def surrogate(logits):
    return ppo.loss(
        outputs_of(logits), experience_of(old, gains, MASK),
        value_coef=0., clip=1e6, ratio_guard=None)[0]

  def policy_gradient(logits):
    return -masked.mean(gains * outputs_of(logits).log_probs, MASK)

  def clipped(logits):
    return ppo.loss(outputs_of(logits), experience_of(old, gains, MASK),
                    value_coef=0.)[0]

  want, got, at_one = jax.jit(lambda x: [jax.grad(f)(x) for f in (
      policy_gradient, surrogate, clipped)])(LOGITS)
  assert np.abs(want).max() > 0.01
  np.testing.assert_allclose(got, want, atol=1e-6)
  # and at ratio 1 the clip and the guard change nothing
  np.testing.assert_allclose(at_one, want, atol=1e-6)


def test_gradient_is_that_of_the_expected_reward_for_any_behaviour():
  """One row per word, behaviour uniform: the sum over rows is exact."""
  logits = jax.random.normal(KEYS[4], (V,))
  payoff = jnp.array([1., -2., 0.5, 3.])
  words = jnp.arange(V)[:, None]
  uniform = jnp.full((V, 1), -jnp.log(V))

  def expected(logits):
    return (jax.nn.softmax(logits) * payoff).sum()

  def loss(logits):
    rows = jnp.broadcast_to(logits[None, None], (V, 1, V))
    gains = payoff[:, None] - 0.7  # any baseline
    return ppo.loss(
        outputs_of(rows, words),
        experience_of(uniform, gains, jnp.ones((V, 1), bool)),
        clip=1e6, ratio_guard=None)[0]

  got, want = jax.jit(
      lambda x: (jax.grad(loss)(x), -jax.grad(expected)(x)))(logits)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_by_hand_ratios_are_per_token_and_tokens_weigh_the_same():
  mask = jnp.array([[True, True, True], [True, False, False]])
  old = jnp.full((2, 3), -1.)
  ratio = jnp.array([[1.1, 0.5, 1.5], [2., 9., 9.]])
  gains = jnp.array([[1., 1., 1.], [-1., 9., 9.]])
  new = old + jnp.log(ratio)
  outputs = Outputs(new, new * 0, new * 0, new[..., None])
  value, metrics = ppo.loss(outputs, experience_of(old, gains, mask))
  # 1.1 + 0.5 + 1.2 (clipped from above) - 2 (unbounded below), over 4
  np.testing.assert_allclose(value, -(1.1 + 0.5 + 1.2 - 2.) / 4, rtol=1e-5)
  np.testing.assert_allclose(metrics['policy_loss'], value, rtol=1e-6)
  np.testing.assert_allclose(metrics['ratio_mean'], 5.1 / 4, rtol=1e-5)
  np.testing.assert_allclose(metrics['ratio_max'], 2., rtol=1e-5)
  assert metrics['clip_fraction'] == 0.25
  want = np.mean([r - 1 - np.log(r) for r in (1.1, 0.5, 1.5, 2.)])
  np.testing.assert_allclose(metrics['approx_kl'], want, rtol=1e-4)


def test_first_step_metrics_are_those_of_an_unmoved_policy():
  rollout = rollout_of()
  values = rollout.values
  _, metrics = ppo.loss(
      outputs_of(LOGITS, values=values), ppo.advantages(rollout))
  assert metrics['ratio_mean'] == metrics['ratio_max'] == 1.
  assert metrics['approx_kl'] == metrics['clip_fraction'] == 0.
  assert metrics['value_clip_fraction'] == 0.
  # k3 at log r = -0.5 everywhere
  np.testing.assert_allclose(metrics['kl'], np.exp(-0.5) - 0.5, rtol=1e-5)


# ---- the clip and the guard


@pytest.mark.parametrize('ratio', [0.5, 0.79, 0.81, 1., 1.19, 1.21, 2.])
@pytest.mark.parametrize('gain', [-2., 2.])
def test_clip_acts_exactly_when_the_ratio_has_left_on_the_gaining_side(
    ratio, gain):
  value, grad, metrics = one_token(np.log(ratio), gain, clip=0.2)
  acts = (gain > 0 and ratio > 1.2) or (gain < 0 and ratio < 0.8)
  bound = (1.2 if gain > 0 else 0.8) if acts else ratio
  np.testing.assert_allclose(value, -bound * gain, rtol=1e-5)
  np.testing.assert_allclose(grad, 0. if acts else -ratio * gain, rtol=1e-5)
  assert metrics['clip_fraction'] == acts


def test_guard_bounds_a_large_ratio_with_a_negative_advantage():
  value, grad, metrics = one_token(np.log(20.), -1., ratio_guard=10.)
  np.testing.assert_allclose(value, 10., rtol=1e-5)
  assert grad == 0.
  np.testing.assert_allclose(metrics['ratio_max'], 20., rtol=1e-5)
  value, grad, _ = one_token(np.log(20.), -1., ratio_guard=None)
  np.testing.assert_allclose([value, grad], [20., 20.], rtol=1e-5)
  # with a positive advantage the clip has already decided
  for guard in (10., None):
    value, grad, _ = one_token(np.log(20.), 1., ratio_guard=guard)
    np.testing.assert_allclose([value, grad], [-1.2, 0.], rtol=1e-5)


def test_guard_keeps_an_overflowing_ratio_out_of_the_gradient():
  value, grad, _ = one_token(200., -1.)
  np.testing.assert_allclose([value, grad], [10., 0.], rtol=1e-5)


def test_guard_inside_the_clip_is_refused():
  with pytest.raises(ValueError, match=r'ratio_guard=1\.1 must be above'):
    one_token(0., 1., clip=0.2, ratio_guard=1.1)


# ---- the critic


def value_case(**kwargs):
  """Value moved from 1.0 to 1.5 with the return at 2.0; no advantage."""
  def loss(value):
    zeros = jnp.zeros_like(value)
    return ppo.loss(
        Outputs(zeros, zeros, value, value[..., None]),
        experience_of(zeros, zeros, zeros == 0, values=zeros + 1.,
                      returns=zeros + 2.), **kwargs)
  (value, metrics), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(
      np.full((1, 1), 1.5, np.float32))
  return value, grad[0, 0], metrics


def test_value_clip_by_hand():
  # held at 1.2: error 0.8; half square 0.32; coefficient 0.5
  value, grad, metrics = value_case()
  np.testing.assert_allclose(value, 0.16, rtol=1e-5)
  assert grad == 0.
  np.testing.assert_allclose(metrics['value_loss'], 0.32, rtol=1e-5)
  assert metrics['value_clip_fraction'] == 1.
  # off: error 0.5
  value, grad, metrics = value_case(value_clip=None, value_coef=2.)
  np.testing.assert_allclose([value, grad], [0.25, -1.], rtol=1e-5)
  assert metrics['value_clip_fraction'] == 0.
  # wide enough: the same
  value, grad, _ = value_case(value_clip=0.6, value_coef=2.)
  np.testing.assert_allclose([value, grad], [0.25, -1.], rtol=1e-5)


def test_the_critic_is_trained_towards_the_returns():
  rollout = rollout_of()
  batch = ppo.advantages(rollout)

  def loss(values):
    return ppo.loss(outputs_of(LOGITS, values=values), batch)[0]

  grad = jax.jit(jax.grad(loss))(rollout.values)
  want = 0.5 * (rollout.values - batch.returns) / MASK.sum()
  np.testing.assert_allclose(
      grad, masked.keep(want, MASK), atol=1e-6)


def test_explained_variance_is_that_of_the_values_at_sampling_time():
  rollout = rollout_of()
  batch = ppo.advantages(rollout)
  keep = np.asarray(MASK)
  returns, values = (np.asarray(x)[keep] for x in (
      batch.returns, rollout.values))
  want = 1 - (returns - values).var() / returns.var()
  for moved in (rollout.values, batch.returns):
    _, metrics = ppo.loss(outputs_of(LOGITS, values=moved), batch)
    np.testing.assert_allclose(
        metrics['explained_variance'], want, rtol=1e-4)


# ---- entropy and KL


def test_entropy_is_a_bonus():
  plain, _, metrics = one_token(0., 1.)
  with_bonus, _, _ = one_token(0., 1., entropy_coef=0.1)
  assert metrics['entropy'] == 1.5
  np.testing.assert_allclose(with_bonus - plain, -0.15, rtol=1e-5)


@pytest.mark.parametrize('name', sorted(kl.ESTIMATORS))
def test_kl_term_is_the_token_mean_of_its_estimator(name):
  outputs = outputs_of(LOGITS)
  ref = outputs.log_probs - jax.random.normal(KEYS[5], (B, T))
  batch = experience_of(
      outputs.log_probs, jnp.ones((B, T)), MASK, ref_log_probs=ref)
  plain, _ = ppo.loss(outputs, batch)
  penalised, metrics = ppo.loss(
      outputs, batch, kl_coef=0.3, kl_estimator=name)
  each = np.asarray(kl.estimator(name)(outputs.log_probs, ref))
  np.testing.assert_allclose(
      penalised - plain, 0.3 * each[np.asarray(MASK)].mean(), rtol=1e-4)
  each = np.asarray(kl.k3(outputs.log_probs, ref))
  np.testing.assert_allclose(
      metrics['kl'], each[np.asarray(MASK)].mean(), rtol=1e-5)


@pytest.mark.parametrize('name', ['k2', 'k3'])
def test_descending_the_kl_term_approaches_the_reference(name):
  """The expected gradient, by summing over every word."""
  policy, ref = jax.random.normal(KEYS[6], (2, V))
  words = jnp.arange(V)[:, None]

  def word_loss(logits, word):
    row = logits[None, None]
    tokens = words[word][None]
    ref_log_probs = outputs_of(ref[None, None], tokens).log_probs
    outputs = outputs_of(row, tokens)
    return ppo.loss(outputs, experience_of(
        jax.lax.stop_gradient(outputs.log_probs), jnp.zeros((1, 1)),
        jnp.ones((1, 1), bool), ref_log_probs=ref_log_probs),
        kl_coef=1., kl_estimator=name)[0]

  grad = jax.jit(lambda x: sum(
      jax.nn.softmax(x)[w] * jax.grad(word_loss)(x, w) for w in range(V)))(
          policy)
  before = kl.exact(policy, ref)
  after = kl.exact(policy - 0.1 * grad, ref)
  assert after < before - 1e-3


def test_unknown_estimator_lists_the_known():
  batch = ppo.advantages(rollout_of())
  with pytest.raises(ValueError, match='known: k1, k2, k3'):
    ppo.loss(outputs_of(LOGITS), batch, kl_estimator='k4')
