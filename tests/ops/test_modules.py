"""Products of layers: the same numbers and gradients as plain ones."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.ops import modules

RNG = np.random.default_rng(0)


def normal(shape, dtype):
  return jnp.asarray(RNG.normal(size=shape), dtype)


# 'cpu' takes rows of all leading axes together, others the axes as they are.
@pytest.mark.parametrize('backend', ['cpu', 'tpu'])
@pytest.mark.parametrize('shape', [(5,), (6, 5), (2, 3, 5)])
@pytest.mark.parametrize('dtype, result', [
    ('float32', None), ('bfloat16', None), ('bfloat16', jnp.float32)])
def test_a_product_and_its_gradients_are_the_plain_ones(
    monkeypatch, backend, shape, dtype, result):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  x, kernel = normal(shape, dtype), normal((5, 4), dtype)
  weights = normal((*shape[:-1], 4), jnp.float32)

  def total(multiply):
    return lambda x, kernel: jnp.sum(
        weights * multiply(x, kernel).astype(jnp.float32))

  def plain(x, kernel):
    return jnp.matmul(x, kernel, preferred_element_type=result)

  ours = lambda x, kernel: modules.product(x, kernel, result)
  assert ours(x, kernel).dtype == plain(x, kernel).dtype
  np.testing.assert_array_equal(ours(x, kernel), plain(x, kernel))
  found, wanted = (
      jax.grad(total(f), argnums=(0, 1))(x, kernel) for f in (ours, plain))
  for one, other in zip(found, wanted, strict=True):
    assert one.dtype == other.dtype and one.shape == other.shape
    np.testing.assert_allclose(
        one.astype(jnp.float32), other.astype(jnp.float32),
        rtol=1e-6 if dtype == 'float32' else 1e-2, atol=1e-5)


def test_what_norms_scale_by_is_not_cast():
  tree = {'norm': {'scale': jnp.ones(2)}, 'up': {
      'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}}
  for given in (tree, jax.eval_shape(lambda: tree)):
    found = jax.tree.map(
        lambda x: x.dtype.name, modules.cast(given, jnp.bfloat16))
    assert found == {'norm': {'scale': 'float32'}, 'up': {
        'kernel': 'bfloat16', 'bias': 'bfloat16'}}
