"""Factors by name, and the name of the matrix that has none."""
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.spectral import bases, svd


def tree():
  w = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
  return {'layers': {'mlp': {'up': {'kernel': jnp.asarray(w)}}},
          'head': {'kernel': jnp.asarray(w[0])}}


def test_factors_of_the_selected_matrices():
  found = bases.bases(tree())
  assert list(found) == ['layers/mlp/up/kernel']
  np.testing.assert_allclose(
      svd.compose(found['layers/mlp/up/kernel']),
      tree()['layers']['mlp']['up']['kernel'], atol=2e-6)
  assert set(bases.bases(tree(), 'kernel')) == {
      'layers/mlp/up/kernel', 'head/kernel'}


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_matrix_that_is_not_finite_is_named(bad):
  params = tree()
  up = params['layers']['mlp']['up']
  up['kernel'] = up['kernel'].at[2, 1, 1].set(bad)
  with pytest.raises(ValueError, match='layers/mlp/up/kernel, layer 2'):
    bases.bases(params)
  params = tree()
  params['head']['kernel'] = params['head']['kernel'] * bad
  with pytest.raises(ValueError, match='head/kernel holds'):
    bases.bases(params, 'head')
