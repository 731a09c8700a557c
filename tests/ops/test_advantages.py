"""GAE against textbook recursion on the tokens that count, and by hand."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rlft.ops import advantages

ROWS, TOKENS = 3, 7
NUMBERS = hnp.arrays(
    np.float32, (ROWS, TOKENS), elements=st.floats(-2, 2, width=32))
MASKS = hnp.arrays(bool, (ROWS, TOKENS))
RATES = st.sampled_from([0., 0.5, 0.9, 1.])
compiled = jax.jit(advantages.gae, static_argnames=('discount', 'lam'))


def oracle(rewards, values, mask, discount, lam):
  """Deletes the tokens that do not count, then sums deltas, row by row.

  The forward sum of arXiv 1506.02438, eq. 16, not the backward recursion.
  """
  result = np.zeros(mask.shape), np.zeros(mask.shape)
  for row in range(len(mask)):
    at = np.flatnonzero(mask[row])
    r = rewards[row, at].astype(np.float64)
    v = np.append(values[row, at].astype(np.float64), 0.)
    for i, column in enumerate(at):
      gain = sum((discount * lam) ** (j - i) *
                 (r[j] + discount * v[j + 1] - v[j])
                 for j in range(i, len(at)))
      result[0][row, column] = gain
      result[1][row, column] = gain + v[i]
  return result


@given(NUMBERS, NUMBERS, MASKS, RATES, RATES)
def test_gae_is_textbook_gae_without_the_masked_tokens(
    rewards, values, mask, discount, lam):
  got = compiled(rewards, values, mask, discount=discount, lam=lam)
  want = oracle(rewards, values, mask, discount, lam)
  np.testing.assert_allclose(got[0], want[0], atol=1e-4)
  np.testing.assert_allclose(got[1], want[1], atol=1e-4)


def test_two_tokens_by_hand():
  #               prompt  first  last   padding
  rewards = jnp.array([[0., 0., 1., 0.]])
  values = jnp.array([[9., 0.5, 0.25, 9.]])
  mask = jnp.array([[False, True, True, False]])
  gains, returns = advantages.gae(
      rewards, values, mask, discount=0.8, lam=0.5)
  # last: 1 - 0.25 = 0.75; first: 0.8 * 0.25 - 0.5 = -0.3, + 0.4 * 0.75 = 0
  np.testing.assert_allclose(gains, [[0., 0., 0.75, 0.]], atol=1e-6)
  np.testing.assert_allclose(returns, [[0., 0.5, 1., 0.]], atol=1e-6)


def test_two_turns_by_hand():
  """The second turn's reward crosses the feedback; one decay per own token."""
  rewards = jnp.array([[0., 0., 0., 0., 1.]])
  values = jnp.array([[0., 0.2, 7., 7., 0.6]])
  mask = jnp.array([[True, True, False, False, True]])
  gains, _ = advantages.gae(rewards, values, mask, discount=1., lam=0.5)
  # t4: 1 - 0.6; t1: 0.6 - 0.2 + 0.4 / 2; t0: 0.2 - 0 + 0.6 / 2
  np.testing.assert_allclose(
      gains, [[0.5, 0.6, 0., 0., 0.4]], atol=1e-6)


def test_undiscounted_lam_one_is_return_minus_value():
  rewards, values = jax.random.normal(jax.random.key(0), (2, 4, 9))
  mask = jnp.ones((4, 9), bool)
  gains, returns = advantages.gae(
      rewards, values, mask, discount=1., lam=1.)
  to_go = np.cumsum(np.asarray(rewards)[:, ::-1], 1)[:, ::-1]
  np.testing.assert_allclose(returns, to_go, atol=1e-5)
  np.testing.assert_allclose(gains, to_go - values, atol=1e-5)


def test_lam_zero_is_the_one_step_error():
  rewards, values = jax.random.normal(jax.random.key(1), (2, 4, 9))
  gains, _ = advantages.gae(
      rewards, values, jnp.ones((4, 9), bool), discount=0.9, lam=0.)
  after = np.pad(np.asarray(values)[:, 1:], ((0, 0), (0, 1)))
  np.testing.assert_allclose(gains, rewards + 0.9 * after - values, atol=1e-5)


def test_a_perfect_critic_leaves_no_advantage():
  values = jnp.array([[1., 1., 1.]])
  gains, returns = advantages.gae(
      jnp.array([[0., 0., 1.]]), values, jnp.ones((1, 3), bool),
      discount=1., lam=0.95)
  assert not gains.any()
  assert (returns == 1.).all()


@pytest.mark.parametrize('which', [0, 1])
def test_what_stands_off_the_mask_is_not_seen(which):
  mask = jnp.array([[False, True, False, True, False]])
  arrays = [jnp.ones((1, 5)), jnp.ones((1, 5))]
  plain = advantages.gae(*arrays, mask, discount=0.9, lam=0.9)
  arrays[which] = jnp.where(mask, 1., jnp.nan)
  got = advantages.gae(*arrays, mask, discount=0.9, lam=0.9)
  assert all(map(np.array_equal, plain, got))


def test_rows_do_not_mix():
  rewards, values = jax.random.normal(jax.random.key(2), (2, 3, 6))
  mask = jax.random.bernoulli(jax.random.key(3), 0.6, (3, 6))
  both = advantages.gae(rewards, values, mask, discount=0.9, lam=0.9)
  alone = advantages.gae(
      rewards[1:2], values[1:2], mask[1:2], discount=0.9, lam=0.9)
  assert all(np.array_equal(a[1:2], b) for a, b in zip(
      both, alone, strict=True))


def test_jit_equals_eager():
  rewards, values = jax.random.normal(jax.random.key(4), (2, 3, 6))
  mask = jax.random.bernoulli(jax.random.key(5), 0.6, (3, 6))

  def gae(*arrays):
    return advantages.gae(*arrays, discount=0.9, lam=0.8)

  for a, b in zip(gae(rewards, values, mask),
                  jax.jit(gae)(rewards, values, mask), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)


stream = jax.jit(
    advantages.gae_of_stream, static_argnames=('discount', 'lam'))


@given(NUMBERS, NUMBERS, MASKS, MASKS, RATES, RATES)
def test_a_stream_is_one_row_cut_at_its_ends(
    rewards, values, mask, ends, discount, lam):
  got = stream(rewards, values, mask, ends, discount=discount, lam=lam)
  want, gain, later = np.zeros(mask.shape), 0., 0.
  for at in reversed([(i, j) for i in range(ROWS) for j in range(TOKENS)]):
    if mask[at]:
      more = 1. - ends[at]
      delta = float(rewards[at]) + discount * more * later - float(values[at])
      gain, later = delta + discount * lam * more * gain, float(values[at])
      want[at] = gain
  np.testing.assert_allclose(got, want, atol=1e-4)


def test_a_stream_of_two_rows_by_hand():
  rewards = jnp.array([[1., float('nan')], [2., 3.]])
  values = jnp.array([[0.5, float('nan')], [1., 1.]])
  mask = jnp.array([[True, False], [True, True]])
  ends = jnp.array([[False, True], [False, False]])  # off the mask: no end
  gains = advantages.gae_of_stream(
      rewards, values, mask, ends, discount=0.5, lam=0.5)
  # 3 - 1 = 2; 2 + 0.5 - 1 + 0.5 = 2; 1 + 0.5 - 0.5 + 0.25 * 2 = 1.5
  np.testing.assert_allclose(gains, [[1.5, 0.], [2., 2.]], atol=1e-6)
  ends = ends.at[0, 0].set(True)
  gains = advantages.gae_of_stream(
      rewards, values, mask, ends, discount=0.5, lam=0.5)
  np.testing.assert_allclose(gains, [[0.5, 0.], [2., 2.]], atol=1e-6)
