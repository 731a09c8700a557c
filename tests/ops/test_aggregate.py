"""How tokens become one number, by hand, and of parts of a batch."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.ops import aggregate

X = jnp.array([[1., 2., 6., 9.], [4., 9., 9., 9.], [9., 9., 9., 9.]])
MASK = jnp.array([[True, True, True, False],
                  [True, False, False, False],
                  [False, False, False, False]])
BY_HAND = {'token_mean': 13 / 4,  # (1 + 2 + 6 + 4) / 4 tokens
           'row_mean': (3 + 4) / 2,  # of two rows: the third has no token
           'constant_length': (9 + 4) / 2 / 4}  # sums, in units of T = 4
NAMES = sorted(aggregate.AGGREGATIONS)


def test_every_aggregation_is_here():
  assert sorted(BY_HAND) == NAMES


@pytest.mark.parametrize('name', NAMES)
def test_by_hand(name):
  value = aggregate.named(name)(jnp.where(MASK, X, jnp.nan), MASK)
  np.testing.assert_allclose(value, BY_HAND[name], rtol=1e-6)
  assert aggregate.weight(name, MASK) == (4 if name == 'token_mean' else 2)


@pytest.mark.parametrize('name', NAMES)
def test_a_mean_is_the_weighed_mean_over_parts(name):
  x = jax.random.normal(jax.random.key(0), (6, 5))
  mask = jax.random.bernoulli(jax.random.key(1), 0.4, (6, 5)).at[2].set(False)
  mean = aggregate.named(name)
  parts = [slice(0, 1), slice(1, 4), slice(4, 6)]
  weights = np.array([aggregate.weight(name, mask[p]) for p in parts])
  values = np.array([mean(x[p], mask[p]) for p in parts])
  assert weights.sum() == aggregate.weight(name, mask)
  np.testing.assert_allclose(
      (weights * values).sum() / weights.sum(), mean(x, mask), rtol=1e-5)


@pytest.mark.parametrize('name', NAMES)
def test_nothing_counts_gives_zero_and_no_gradient(name):
  value, grad = jax.value_and_grad(aggregate.named(name))(
      jnp.full((3, 4), jnp.nan), jnp.zeros((3, 4), bool))
  assert value == 0. and not np.asarray(grad).any()
  assert aggregate.weight(name, jnp.zeros((3, 4), bool)) == 0


def test_unknown_name_lists_the_known():
  for function in (aggregate.named, lambda name: aggregate.weight(name, MASK)):
    with pytest.raises(ValueError, match='known: constant_length, row_mean'):
      function('mean')
