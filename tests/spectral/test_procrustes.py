"""Angle spectra of known rotations."""
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from rlft.spectral import procrustes, rotation

PI = np.pi


def basis(m, n, seed):
  return np.linalg.qr(np.random.default_rng(seed).normal(size=(m, n)))[0]


def turning(angles, size, seed):
  """An orthogonal matrix that turns `size` dimensions by these angles."""
  turn = np.eye(size)
  for i, angle in enumerate(angles):
    c, s = np.cos(angle), np.sin(angle)
    turn[2 * i:2 * i + 2, 2 * i:2 * i + 2] = [[c, -s], [s, c]]
  q = basis(size, size, seed)
  return q @ turn @ q.T


@given(st.lists(st.one_of(
    st.floats(0, PI), st.floats(-7, 0).map(lambda x: 10**x),
    st.floats(-7, 0).map(lambda x: PI - 10**x)), min_size=3, max_size=3),
    st.integers(0, 1000))
def test_a_known_rotation_is_recovered(angles, seed):
  a = basis(20, 7, seed)
  b = a @ turning(angles, 7, seed + 1)
  found = procrustes.angles(
      jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
  # Pairs, and one direction that stays.
  np.testing.assert_allclose(
      np.float64(found), np.sort([0, *angles, *angles]), rtol=0, atol=1e-6)


def test_a_reflection_is_one_right_about():
  a = np.eye(6, 4)
  b = a * [1, -1, 1, 1]
  np.testing.assert_allclose(procrustes.angles(
      jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)),
      [0, 0, 0, PI], atol=1e-6)


def test_angles_are_the_phases_of_the_eigenvalues():
  a, b = basis(30, 8, 0), basis(30, 8, 1)
  turn, _ = scipy.linalg.orthogonal_procrustes(a, b)
  phases = np.sort(np.abs(np.angle(np.linalg.eigvals(turn))))
  a, b = (jnp.asarray(x, jnp.float32) for x in (a, b))
  np.testing.assert_allclose(procrustes.angles(a, b), phases, atol=2e-6)
  np.testing.assert_allclose(rotation.procrustes(a, b), turn, atol=5e-6)
  np.testing.assert_allclose(
      procrustes._angles(a, b, wide=False), phases, atol=2e-5)


@pytest.mark.parametrize('axis', [0, 1])
def test_a_stack_is_a_loop_over_layers(axis):
  a, b = (jnp.asarray(np.stack([basis(9, 4, s + i) for i in range(2)]),
                      jnp.float32) for s in (0, 5))
  a, b = (jnp.expand_dims(x, axis) for x in (a, b))
  flat = lambda x: x.reshape(2, 9, 4)
  np.testing.assert_allclose(
      procrustes.angles(a, b).reshape(2, 4),
      [procrustes.angles(x, y) for x, y in zip(flat(a), flat(b), strict=True)],
      atol=1e-6)
