"""What optimizers keep, and what 8 bits cost."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlft.optimizers import adafactor, adamw, adamw_8bit
from tests.optimizers.test_contract import PARAMS, run

KERNEL = {'x': jnp.zeros((28, 512, 512))}


@pytest.mark.parametrize('module, bytes_each', [
    (adamw, 8), (adamw_8bit, 2), (adafactor, 0)])
def test_bytes_that_are_kept_of_each_parameter(module, bytes_each):
  kept = jax.eval_shape(module.scale().init, KERNEL)
  found = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept))
  assert found / KERNEL['x'].size == pytest.approx(bytes_each, abs=.02)


def test_adafactor_is_that_of_optax():
  ours = adafactor.scale(relative=True)
  theirs = optax.adafactor(learning_rate=1.0)
  state, other = ours.init(PARAMS), theirs.init(PARAMS)
  rng = np.random.default_rng(0)
  for _ in range(3):
    grads = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), PARAMS)
    got, state = ours.update(grads, state, PARAMS)
    want, other = theirs.update(grads, other, PARAMS)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
      np.testing.assert_allclose(x, -y, rtol=1e-5, atol=1e-9)


def test_rounding_is_right_in_the_mean_and_exact_where_it_can_be():
  keys = jax.random.split(jax.random.key(1), 4000)
  x = jnp.array([300.0, 1.3, -0.77, 0.05, 0.0, 288.0])
  values, by = jax.vmap(adamw_8bit.round_rows, (None, 0))(x, keys)
  found = values.astype(jnp.float32) * by
  spread = np.std(found, axis=0)
  assert (spread[:4] > 0).all() and (spread[4:] == 0).all()
  found = np.asarray(found)
  np.testing.assert_allclose(  # five errors of the mean
      found.mean(0), x, atol=5 * spread.max() / 4000**.5, rtol=0)
  assert (np.abs(found - np.asarray(x)) <= np.abs(x) / 8 + 1e-9).all()


def test_a_small_average_does_not_stand_still():
  """Gradients fall to a tenth: the second moment follows, as in float32."""
  def root(module):
    tx = module.scale(b2=0.99)
    params = {'x': jnp.zeros(512)}
    state = tx.init(params)
    update = jax.jit(tx.update)
    for n in range(300):
      _, state = update({'x': jnp.full(512, 1.0 if n < 50 else 0.1)}, state)
    if module is adamw:
      return float(jnp.sqrt(state.nu['x']).mean())
    return float(adamw_8bit.read(state.root)['x'].mean())

  assert root(adamw_8bit) == pytest.approx(root(adamw), rel=0.03)


def test_it_ends_near_where_32_bits_end():
  near, far = (run(n, steps=30, rate=1e-2)[0]['policy']['kernel']
               for n in ('adamw_8bit', 'adamw'))
  start = PARAMS['policy']['kernel']
  off = jnp.linalg.norm(near - far) / jnp.linalg.norm(far - start)
  assert 1e-4 < off < 0.1


def test_a_row_of_tiny_numbers_has_a_scale_of_its_own():
  x = jnp.array([[1e-12, 3e-12], [4e3, 1e3]])
  values, by = adamw_8bit.round_rows(x, jax.random.key(0))
  np.testing.assert_allclose(values.astype(jnp.float32) * by, x, rtol=.07)
