"""The decomposition against float64 LAPACK, and how it runs on CPUs."""
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.spectral import rotation, svd

SHAPES = [(5, 5), (4, 9), (9, 4), (3, 6, 4), (2, 3, 4, 6)]


def stack(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize('shape', SHAPES)
def test_values_and_product_are_those_of_float64_lapack(shape):
  w = stack(*shape)
  found = svd.decompose(w)
  exact = np.linalg.svd(np.float64(w), compute_uv=False)
  np.testing.assert_allclose(found.s, exact, rtol=0, atol=2e-6 * exact.max())
  assert (np.diff(found.s) <= 0).all()
  np.testing.assert_allclose(svd.compose(found), w, atol=3e-6)
  for basis in (found.u, found.vt.mT):
    gram = np.float64(basis.mT) @ np.float64(basis)
    np.testing.assert_allclose(
        gram, np.broadcast_to(np.eye(gram.shape[-1]), gram.shape), atol=2e-6)


def test_input_and_output_sides_follow_x_times_w():
  # e_0 is the only input that matters, e_2 the only output that answers.
  w = jnp.zeros((3, 4)).at[0, 2].set(5.)
  found = svd.decompose(w, 1)
  np.testing.assert_allclose(np.abs(found.u[:, 0]), [1, 0, 0], atol=1e-6)
  np.testing.assert_allclose(np.abs(found.vt[0]), [0, 0, 1, 0], atol=1e-6)
  np.testing.assert_allclose(found.s, [5], rtol=1e-6)


def test_a_stack_is_a_loop_over_layers():
  w = stack(3, 6, 4)
  for whole, *parts in zip(
      svd.decompose(w), *(svd.decompose(x) for x in w), strict=True):
    np.testing.assert_array_equal(whole, np.stack(parts))


def test_leading_directions_only():
  w = stack(2, 5, 7)
  full, some = svd.decompose(w), svd.decompose(w, 3)
  assert [x.shape for x in some] == [(2, 5, 3), (2, 3), (2, 3, 7)]
  np.testing.assert_array_equal(some.s, full.s[:, :3])
  for k in (0, 6):
    with pytest.raises(ValueError, match=f'k={k}'):
      svd.decompose(w, k)


def test_half_precision_is_factored_in_single():
  w = stack(4, 4).astype(jnp.bfloat16)
  found = svd.decompose(w)
  assert found.s.dtype == jnp.float32
  np.testing.assert_allclose(svd.compose(found), np.float32(w), atol=2e-6)


def test_polar_factor_is_the_nearest_orthonormal_matrix():
  x = stack(2, 6, 3)
  q = svd.polar_factor(x)
  np.testing.assert_allclose(
      q.mT @ q, np.broadcast_to(np.eye(3), (2, 3, 3)), atol=1e-6)
  # Optimality: q'x is symmetric and positive definite.
  part = np.float64(q.mT @ x)
  np.testing.assert_allclose(part, part.swapaxes(-1, -2), atol=2e-6)
  assert (np.linalg.eigvalsh(part) > 0).all()


def test_a_fraction_counts_by_rounding():
  assert [svd.count(f, 128) for f in (0, .05, .2, .5, 1)] == [
      0, 6, 26, 64, 128]
  for fraction in (-.1, 1.1, float('nan')):
    with pytest.raises(ValueError, match='fraction'):
      svd.count(fraction, 8)


@pytest.mark.parametrize('kernel, arguments', [
    (svd.decompose, 1), (svd.polar_factor, 1),
    (rotation.principal_angles, 2), (rotation.procrustes, 2)])
def test_lapack_never_gets_a_batch_on_cpus(kernel, arguments):
  # Two batched calls at once can wait for each other for ever.
  text = jax.jit(kernel).lower(
      *[stack(5, 7, 3)] * arguments).compile().as_text()
  calls = re.findall(r'.*custom_call_target="lapack.*', text)
  assert calls
  assert not [line for line in calls if re.search(r'\[5,', line)]
