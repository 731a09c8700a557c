"""The clipped surrogate: both sides of the clip, the guard, and neither."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.objectives import grpo, ppo
from rlft.ops import surrogate
from rlft.types import Rollout
from tests.objectives import bigram


def of(ratio, gain, low=0.2, high=0.3, guard=None):
  """(value, slope to the log-ratio, whether the clip decided) of one token."""
  def value(log_ratio):
    return surrogate.clipped(log_ratio, jnp.full((1, 1), gain), low=low,
                             high=high, guard=guard).sum()
  log_ratio = jnp.full((1, 1), jnp.log(ratio))
  told, slope = jax.value_and_grad(value)(log_ratio)
  decided = surrogate.decided(
      log_ratio, jnp.full((1, 1), gain), low=low, high=high)
  return float(told), float(slope[0, 0]), bool(decided[0, 0])


@pytest.mark.parametrize('ratio, gain, value, slope', [
    (1.25, 1., 1.25, 1.25),  # within the wider side above
    (1.35, 1., 1.3, 0.),
    (0.75, 1., 0.75, 0.75),  # the losing side is never clipped
    (0.85, -1., -0.85, -0.85),
    (0.75, -1., -0.8, 0.),
    (9.0, -1., -9., -9.),
])
def test_the_sides_of_the_clip_are_apart(ratio, gain, value, slope):
  told, found, decided = of(ratio, gain)
  np.testing.assert_allclose([told, found], [value, slope], rtol=1e-5)
  assert decided == (slope == 0.)


def test_none_leaves_a_side_open():
  for got, want in ((of(9., 2., high=None), (18., 18., False)),
                    (of(.1, -2., low=None), (-.2, -.2, False))):
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_guard_is_the_dual_clip():
  np.testing.assert_allclose(of(9., -2., guard=3.)[:2], (-6., 0.), rtol=1e-5)
  np.testing.assert_allclose(of(2., -2., guard=3.)[:2], (-4., -4.), rtol=1e-5)
  # where A > 0 the clip has decided before
  np.testing.assert_allclose(of(9., 2., guard=3.)[:2], (2.6, 0.), rtol=1e-5)
  # without a clip it bounds both
  np.testing.assert_allclose(
      of(9., 2., low=None, high=None, guard=3.)[:2], (6., 0.), rtol=1e-5)


@pytest.mark.parametrize('high, guard', [(0.3, 1.3), (None, 1.)])
def test_guard_inside_the_clip_is_refused(high, guard):
  with pytest.raises(ValueError, match=f'ratio_guard={guard} must be above'):
    of(1., 1., high=high, guard=guard)


def heard(log_ratios, mask=None):
  """A rollout of one row, the trainer so many nats above the sampler."""
  gaps = jnp.array([log_ratios])
  mask = jnp.ones(gaps.shape, bool) if mask is None else jnp.array([mask])
  zeros = jnp.zeros(gaps.shape)
  ids = jnp.zeros(gaps.shape, int)
  return Rollout(
      tokens=ids, mask=mask, turn_ids=ids, rewards=zeros,
      prompt_ids=jnp.zeros(1, int), log_probs=zeros - 3, ref_log_probs=zeros,
      values=zeros, weights=zeros, sampler_log_probs=zeros - 3 - gaps,
      truncated=jnp.zeros(1, bool))


def test_tokens_weigh_as_much_as_they_are_likelier_to_the_trainer():
  """Probabilities 2, 1/2, 1 and 8 times the sampler's, at most 3 counted."""
  old = heard(np.log([2.0, 0.5, 1.0, 8.0, np.inf]).tolist(),
              [True, True, True, True, False])
  gained = jnp.array([[1.0, -4.0, 5.0, 2.0, 7.0]])
  found, told = surrogate.corrected(gained, old, cap=3.0)
  np.testing.assert_allclose(found[:, :4], [[2.0, -2.0, 5.0, 6.0]], rtol=1e-6)
  assert np.isfinite(found).all()
  np.testing.assert_allclose(told['importance_mean'], 6.5 / 4, rtol=1e-6)
  assert told['importance_capped'] == 0.25


def test_no_gradient_goes_through_the_correction():
  def value(log_probs, gained):
    old = heard([0.3, -0.2])._replace(log_probs=log_probs)
    return surrogate.corrected(gained, old, cap=2.0)[0].sum()

  slopes = jax.grad(value, argnums=(0, 1))(
      jnp.full((1, 2), -3.0), jnp.array([[2.0, 3.0]]))
  assert not slopes[0].any()
  np.testing.assert_allclose(slopes[1], np.exp([[0.3, -0.2]]), rtol=1e-5)


@pytest.mark.parametrize('module', [grpo, ppo])
def test_a_sampler_that_agrees_needs_no_correction(module):
  """And one that is e^0.5 off everywhere weighs the policy's term by that."""
  def gradient(nats, **options):
    rollout = bigram.rollout()
    batch = module.advantages(rollout._replace(
        sampler_log_probs=rollout.log_probs - nats))
    return bigram.gradient(module.loss, batch, **options)

  plain = gradient(0.5)
  np.testing.assert_allclose(
      gradient(0.0, importance_cap=2.0), plain, atol=1e-7)
  alone = dict(kl_coef=0.0) if module is grpo else {}
  for cap, weight in ((2.0, np.exp(0.5)), (1.25, 1.25)):
    np.testing.assert_allclose(
        gradient(0.5, importance_cap=cap, **alone),
        weight * gradient(0.5, **alone), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('cap', [0.0, -1.0])
def test_a_cap_that_leaves_nothing_is_refused(cap):
  with pytest.raises(ValueError, match=r'importance_cap=.*above 0, or None'):
    surrogate.corrected(jnp.ones((1, 1)), heard([0.0]), cap=cap)
