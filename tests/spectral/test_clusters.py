"""Clusters of values, and cosines that do not depend on what is arbitrary."""
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rlft.spectral import clusters, procrustes, rotation, svd


def basis(m, n, seed):
  return np.linalg.qr(np.random.default_rng(seed).normal(size=(m, n)))[0]


def factors(u, s, v):
  return svd.SVD(*(jnp.asarray(x, jnp.float32) for x in (u, s, v.T)))


def test_values_closer_than_the_gap_are_one_cluster_by_hand():
  s = jnp.array([[9., 8.9, 8.8, 5., 4., 3.95], [6., 5., 4., 3., 2., 1.]])
  found = clusters.groups(s, jnp.array([.2, .2]))
  np.testing.assert_array_equal(found, [[0, 0, 0, 1, 2, 2], [0, 1, 2, 3, 4, 5]])
  np.testing.assert_array_equal(
      clusters.together(found)[0, 2], [True, True, True, False, False, False])


def test_the_gap_is_the_norm_of_the_noise_or_the_rounding():
  rng = np.random.default_rng(0)
  noise = jnp.asarray(rng.normal(size=(300, 200)) * 1e-3, jnp.float32)
  gap = clusters.resolvable(jnp.ones(200), noise)
  norm = np.linalg.norm(np.float64(noise), 2)
  assert norm < float(gap) < 1.3 * norm
  gap = clusters.resolvable(jnp.array([4., 1.]), noise * 0)
  np.testing.assert_allclose(gap, 4 * 8 * 2**-23)


@given(st.integers(0, 1000))
def test_a_basis_within_a_cluster_is_arbitrary(seed):
  u, v = basis(9, 6, seed), basis(7, 6, seed + 1)
  s = np.array([5., 3., 3., 3., 2., 1.])
  spin = np.eye(6)
  spin[1:4, 1:4] = basis(3, 3, seed + 2)
  groups = jnp.array([0, 1, 1, 1, 2, 3])
  one, two = factors(u, s, v), factors(u @ spin, s, v @ spin)
  other = factors(basis(9, 6, seed + 3), s, basis(7, 6, seed + 4))
  for cosine in rotation.cosine(one, two, groups):
    np.testing.assert_allclose(cosine, 1, atol=1e-6)
  assert min(rotation.cosine(one, two).input[1:4]) < .999
  for a, b in zip(rotation.cosine(other, one, groups),
                  rotation.cosine(other, two, groups), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)
  # The span's cosine: root mean square over its principal angles.
  angles = rotation.principal_angles(one.u[:, 1:4], other.u[:, 1:4])
  np.testing.assert_allclose(
      rotation.cosine(one, other, groups).input[1:4],
      np.sqrt(np.square(np.cos(angles)).mean()), atol=1e-6)
  # Singles are as without groups.
  np.testing.assert_allclose(
      rotation.cosine(one, other, groups).input[np.r_[0, 4, 5]],
      rotation.cosine(one, other).input[np.r_[0, 4, 5]], atol=1e-6)


@given(st.integers(0, 1000))
def test_alignment_takes_back_signs_and_the_basis_of_a_cluster(seed):
  rng = np.random.default_rng(seed)
  u, v, s = basis(9, 6, seed), basis(7, 6, seed + 1), np.arange(6, 0, -1.)
  spin = np.diag(rng.choice([-1., 1.], 6))
  spin[1:4, 1:4] = basis(3, 3, seed + 2)
  groups = jnp.array([0, 1, 1, 1, 2, 3])
  one, two = factors(u, s, v), factors(u @ spin, s, v @ spin)
  found = procrustes.aligned(one, two, groups)
  np.testing.assert_allclose(found.u, u, atol=2e-6)
  np.testing.assert_allclose(found.vt, v.T, atol=2e-6)
  for angles in procrustes.of_directions(one, two, groups):
    np.testing.assert_allclose(angles, 0, atol=2e-6)
