"""Statistics of groups against numpy, in any order and of any size."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlft.ops import groups

STATISTICS = (
    groups.mean, groups.leave_one_out, groups.deviation, groups.standardised)
ROWS = 7
TABLE = st.lists(
    st.tuples(st.floats(-8, 8, width=32), st.integers(-1, 3), st.booleans()),
    min_size=ROWS, max_size=ROWS)


def slowly(x, ids, counts):
  """(mean, mean of the others, deviation) of each row, by loops."""
  rows = range(len(x))
  wanted = []
  for i in rows:
    same = [j for j in rows if counts[i] and counts[j] and ids[i] == ids[j]]
    own = np.array([x[j] for j in same] or [0.], np.float64)
    others = np.array([x[j] for j in same if j != i] or own)
    wanted.append((own.mean(), others.mean(), own.std()))
  return np.array(wanted).T


@jax.jit
def fast(x, ids, counts):
  return tuple(s(x, ids, counts) for s in STATISTICS)


@given(TABLE)
def test_statistics_are_those_of_the_rows_that_share_an_id(table):
  x, ids, counts = map(np.array, zip(*table, strict=True))
  poisoned = np.where(counts, x, np.nan).astype(np.float32)
  mean, others, deviation, standard = fast(
      jnp.asarray(poisoned), jnp.asarray(ids), jnp.asarray(counts))
  want = slowly(x, ids, counts)
  np.testing.assert_allclose([mean, others], want[:2], atol=1e-5)
  np.testing.assert_allclose(deviation, want[2], atol=1e-5)
  centred = np.where(counts, x, 0.) - want[0]
  np.testing.assert_allclose(
      np.asarray(standard) * (want[2] + 1e-6), centred, atol=1e-4)


def test_by_hand_groups_interleaved():
  """Group 5 has 1, 3 and 8; group 2 has 4 and 6; group 9 has 7 alone."""
  x = jnp.array([1., 4., 3., 7., 6., 8.])
  ids, counts = jnp.array([5, 2, 5, 9, 2, 5]), jnp.ones(6, bool)
  mean, others, deviation, standard = fast(x, ids, counts)
  np.testing.assert_allclose(mean, [4., 5., 4., 7., 5., 4.], rtol=1e-6)
  np.testing.assert_allclose(others, [5.5, 6., 4.5, 7., 4., 2.], rtol=1e-6)
  root = np.sqrt(26 / 3)
  np.testing.assert_allclose(
      deviation, [root, 1., root, 0., 1., root], rtol=1e-6)
  np.testing.assert_allclose(
      standard, [-3 / root, -1., -1 / root, 0., 1., 4 / root], rtol=1e-4)


@pytest.mark.parametrize('value', [0.1, 0.2 + 0.1, 1 / 3, -7.7, 1e8, 1e-30])
@pytest.mark.parametrize('size', [1, 2, 3, 7])
def test_equal_numbers_have_exactly_their_own_value_as_mean(value, size):
  """A sum of seven times 0.1, over seven, is not 0.1 in float32."""
  x = jnp.full(7, value, jnp.float32)
  ids = jnp.where(jnp.arange(7) < size, 0, jnp.arange(7))
  mean, others, deviation, standard = fast(x, ids, jnp.ones(7, bool))
  np.testing.assert_array_equal(mean, x)
  np.testing.assert_array_equal(others, x)
  assert not np.asarray(deviation).any() and not np.asarray(standard).any()


def test_numbers_equal_up_to_rounding_stay_small():
  x = jnp.array([0.3, 0.1 + 0.2 + 3e-8], jnp.float32)
  assert x[0] != x[1]
  got = groups.standardised(x, jnp.zeros(2, int), jnp.ones(2, bool))
  assert np.abs(got).max() < 0.05


def test_order_of_rows_permutes_the_statistics():
  x = jax.random.normal(jax.random.key(0), (9,))
  ids, counts = jnp.arange(9) % 4, jnp.arange(9) != 5
  order = jax.random.permutation(jax.random.key(1), 9)
  want, got = fast(x, ids, counts), fast(x[order], ids[order], counts[order])
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b[order], atol=1e-6)


def test_copies_are_rows_of_a_group_that_wrote_the_same():
  tokens = jnp.array([[1, 2, 3], [9, 2, 3], [1, 2, 4], [1, 2, 3], [1, 2, 3]])
  mask = jnp.array([[False, True, True]] * 4 + [[False, True, False]])
  # 0 and 1 differ in the prompt only; 3 is of another group; 4 stops early
  ids = jnp.array([0, 0, 0, 1, 0])
  np.testing.assert_array_equal(
      groups.copies(tokens, mask, ids), [2, 2, 1, 1, 1])
  nothing = jnp.zeros_like(mask)
  assert not np.asarray(groups.copies(tokens, nothing, ids)).any()
