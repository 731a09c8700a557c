"""Reductions under a mask against numpy on what the mask selects."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rlft.ops import masked

SHAPE = (3, 5)
X = hnp.arrays(np.float32, SHAPE, elements=st.floats(-8, 8, width=32))
MASK = hnp.arrays(bool, SHAPE).filter(np.any)


def poisoned(x, mask):
  """NaN and infinities wherever nothing counts."""
  bad = np.resize([np.nan, np.inf, -np.inf], x.shape)
  return jnp.asarray(np.where(mask, x, bad).astype(np.float32))


@given(X, MASK)
def test_reductions_are_numpy_on_the_selected(x, mask):
  chosen = x[mask].astype(np.float64)
  x, mask = poisoned(x, mask), jnp.asarray(mask)
  assert masked.count(mask) == len(chosen)
  np.testing.assert_allclose(masked.total(x, mask), chosen.sum(), atol=1e-4)
  np.testing.assert_allclose(masked.mean(x, mask), chosen.mean(), atol=1e-5)
  np.testing.assert_allclose(masked.variance(x, mask), chosen.var(), atol=1e-4)
  np.testing.assert_allclose(masked.maximum(x, mask), chosen.max())


def test_a_mean_is_of_tokens_not_of_rows_by_hand():
  x = jnp.array([[1., 2., 3.], [10., 0., 0.]])
  mask = jnp.array([[True, True, True], [True, False, False]])
  assert masked.mean(x, mask) == 4.  # 16 / 4 tokens


@pytest.mark.parametrize('reduction', [
    masked.total, masked.mean, masked.variance, masked.maximum])
def test_nothing_counts_gives_zero_and_no_gradient(reduction):
  x, mask = jnp.full(SHAPE, jnp.nan), jnp.zeros(SHAPE, bool)
  value, grad = jax.jit(jax.value_and_grad(reduction))(x, mask)
  assert value == 0.
  assert not grad.any()
  assert masked.count(mask) == 0


@pytest.mark.parametrize('reduction', [
    masked.total, masked.mean, masked.variance, masked.maximum])
def test_gradient_is_on_the_mask_only(reduction):
  mask = np.arange(15).reshape(SHAPE) % 4 == 1
  x = poisoned(np.arange(15., dtype=np.float32).reshape(SHAPE), mask)
  grad = jax.grad(reduction)(x, jnp.asarray(mask))
  assert np.isfinite(grad).all()
  assert grad.any()
  assert not grad[~mask].any()


def test_booleans_and_low_precision_are_summed_in_float32():
  mask = jnp.ones((1, 4096), bool)
  assert masked.mean(mask, mask) == 1.
  ones = jnp.ones((1, 4096), jnp.bfloat16)  # bfloat16 cannot count past 256
  assert masked.total(ones, mask) == 4096.


def test_variance_survives_a_large_mean():
  x = jnp.array([[1000., 1001., 1002., 0.]])
  mask = jnp.array([[True, True, True, False]])
  np.testing.assert_allclose(masked.variance(x, mask), 2 / 3, rtol=1e-4)


@given(X, MASK)
def test_whitened_has_mean_zero_and_variance_one(x, mask):
  if np.ptp(x[mask]) < 0.1:
    return
  white = masked.whiten(poisoned(x, mask), jnp.asarray(mask))
  assert not np.asarray(white)[~mask].any()
  chosen = np.asarray(white, np.float64)[mask]
  np.testing.assert_allclose(chosen.mean(), 0., atol=1e-4)
  np.testing.assert_allclose(chosen.var(), 1., atol=1e-4)
  # whitening moves and stretches: the order stays
  np.testing.assert_allclose(
      chosen * x[mask].std() + x[mask].mean(), x[mask], atol=1e-3)


def test_whiten_by_hand():
  x = jnp.array([[1., 3., 99.], [5., 7., 99.]])
  mask = jnp.array([[True, True, False]] * 2)
  # mean 4, squares 9 1 1 9, population variance 5 (Bessel's would be 20 / 3)
  want = np.array([[-3., -1., 0.], [1., 3., 0.]]) / np.sqrt(5.)
  np.testing.assert_allclose(masked.whiten(x, mask), want, rtol=1e-6)
  scaled = masked.whiten(x, mask, center=False)
  np.testing.assert_allclose(
      scaled, np.array([[1., 3., 0.], [5., 7., 0.]]) / np.sqrt(5.), rtol=1e-6)


@pytest.mark.parametrize('center', [True, False])
def test_whiten_one_valid_token_is_finite(center):
  x, mask = jnp.array([[3., 4.]]), jnp.array([[True, False]])
  white = masked.whiten(x, mask, center=center)
  assert np.isfinite(white).all()
  assert white[0, 1] == 0.
  assert (white[0, 0] == 0.) == center


def test_whiten_equal_values_stay_near_zero():
  x = jnp.full((4, 1000), 0.1)
  white = masked.whiten(x, jnp.ones((4, 1000), bool))
  assert np.abs(white).max() < 1e-2


def test_whiten_epsilon_shrinks():
  x, mask = jnp.array([[-1., 1.]]), jnp.ones((1, 2), bool)
  np.testing.assert_allclose(
      masked.whiten(x, mask, epsilon=3.), [[-0.5, 0.5]], rtol=1e-6)


def test_keep_all_leaves_other_shapes():
  mask = jnp.array([[True, False]])
  tree = masked.keep_all({'a': jnp.array([[1., 2.]]), 'b': jnp.ones(3)}, mask)
  assert tree['a'].tolist() == [[1., 0.]]
  assert tree['b'].tolist() == [1.] * 3


def test_rows_by_hand():
  mask = jnp.array([[False, True, False, True], [False] * 4, [True] * 4])
  x = jnp.where(mask, jnp.arange(12.).reshape(3, 4), jnp.nan)
  np.testing.assert_array_equal(masked.row_count(mask), [2, 0, 4])
  np.testing.assert_array_equal(masked.row_total(x, mask), [4., 0., 38.])
  np.testing.assert_array_equal(masked.row_mean(x, mask), [2., 0., 9.5])
  np.testing.assert_array_equal(
      masked.along_rows(jnp.array([7., 8., 9.]), mask),
      [[0., 7., 0., 7.], [0.] * 4, [9.] * 4])
  np.testing.assert_array_equal(
      masked.lasts(mask), [[0, 0, 0, 1], [0] * 4, [0, 0, 0, 1]])
