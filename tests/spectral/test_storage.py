"""The format of stored weights, and what its rounding does."""
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from rlft.spectral import storage


def normal(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize('dtype, bits', [
    (ml_dtypes.bfloat16, 7), (np.float16, 10)])
def test_rounding_is_that_of_the_format(dtype, bits):
  w = np.random.default_rng(0).normal(size=(2, 50, 40)).astype(np.float32)
  w[0, 0, :3] = [1e-30, 3e38 if bits == 7 else 6e4, 0]
  w[1] *= 1e-6 if bits == 10 else 1  # below float16's normal range
  exact = w.astype(dtype).astype(np.float32)
  found = jax.jit(storage.rounded, static_argnums=1)(jnp.asarray(w), bits)
  np.testing.assert_array_equal(found, exact)
  assert np.abs(exact - w).max() > 0


@pytest.mark.parametrize('dtype, bits', [
    (jnp.bfloat16, 7), (jnp.float16, 10), (jnp.float32, 23)])
def test_the_format_is_read_off_the_values(dtype, bits):
  w = normal(9, 7).astype(dtype)
  assert storage.bits(w) == bits
  assert storage.bits(w.astype(jnp.float32)) == bits


@pytest.mark.parametrize('bits', [7, 10, 23])
def test_storage_noise_is_two_roundings(bits):
  w = normal(400, 300)
  w = jnp.where(jnp.abs(w) > 1e-3, w, 1)  # normal in all three
  w = jax.lax.reduce_precision(w, *storage.FORMATS[bits])
  noise = np.float64(storage.noise(jax.random.key(0), w, bits, True))
  step = 2.0 ** (np.floor(np.log2(np.abs(np.float64(w)))) - bits)
  assert np.abs(noise / step).max() <= 1
  # Twice the variance of a rounding; a last bit more where none is smaller.
  expected = 1 / 6 if bits < 23 else 1 / 4
  np.testing.assert_allclose(np.square(noise / step).mean(), expected, rtol=.02)
  assert not storage.noise(jax.random.key(0), w * 0, bits, True).any()


def test_storage_noise_of_finer_weights_is_their_rounding():
  w = normal(20, 30)
  np.testing.assert_array_equal(
      storage.noise(jax.random.key(0), w, 7, False), storage.rounded(w, 7) - w)


def test_small_weights_do_not_hide_float16():
  w = np.asarray(normal(64, 64) * .02).astype(np.float16)
  assert (np.abs(w[w != 0]) < storage.LEAST).any()  # subnormal
  assert storage.bits(jnp.asarray(w)) == 10
  noise = storage.noise(
      jax.random.key(0), jnp.asarray(w, jnp.float32), 10, True)
  small = np.abs(w) < storage.LEAST
  assert np.abs(noise[small]).max() <= storage.STEP
  assert np.abs(noise[small]).max() > storage.STEP / 2


@pytest.mark.parametrize('stored', [True, False])
def test_noise_by_rows_is_the_same(monkeypatch, stored):
  monkeypatch.setattr(storage, 'ENTRIES', 70)
  w, key = np.asarray(normal(23, 30)), jax.random.key(3)
  found = np.full(w.shape, np.nan, np.float32)
  for rows, noise in storage.noise_by_rows(key, w, 7, stored):
    assert len(noise) <= 2
    found[rows] = noise
  np.testing.assert_array_equal(found, storage.noise(key, w, 7, stored))
