"""What holds for every matrix, drawn at random in shapes that do not change."""
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlft.spectral import pairs, restore, rotation, svd

L, M, N = 2, 10, 7
SPECTRAL = (restore.values, restore.vectors, restore.triplets)
SEEDS = st.integers(0, 10_000)
SIZES = st.sampled_from([1e-6, 1e-2, .3, 10.])


def both(seed, size):
  before, update = np.random.default_rng(seed).normal(size=(2, L, M, N))
  return (jnp.asarray(before, jnp.float32),
          jnp.asarray(before + size * update, jnp.float32))


def spectrum(w):
  return np.linalg.svd(np.float64(w), compute_uv=False)


@given(SEEDS, SIZES)
@settings(max_examples=25)
def test_restoring_nothing_and_everything(seed, size):
  before, after = both(seed, size)
  pair = pairs.Pair(after, before)
  for edit in SPECTRAL:
    np.testing.assert_array_equal(edit(pair, top=0), after)
  np.testing.assert_array_equal(restore.triplets(pair, top=1), before)
  # All directions and then all values is everything too.
  turned = restore.vectors(pair, top=1)
  np.testing.assert_allclose(
      spectrum(turned), spectrum(after), rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(
      spectrum(restore.values(pair, top=1)), spectrum(before), atol=2e-5)


@given(SEEDS, SIZES, st.integers(0, N), st.integers(0, N))
@settings(max_examples=25)
def test_the_corrected_edit_keeps_its_values(seed, size, top, tail):
  tail = min(tail, N - top)
  before, after = both(seed, size)
  s = spectrum(after)
  found = restore.vectors(after, before, top_count=top, tail_count=tail)
  np.testing.assert_allclose(spectrum(found), s, atol=2e-5 * s.max())


@given(SEEDS, SIZES, st.integers(0, N))
@settings(max_examples=25)
def test_permuted_and_turned_coordinates_change_no_edit(seed, size, top):
  before, after = both(seed, size)
  rng = np.random.default_rng(seed)
  rows, columns = rng.permutation(M), rng.permutation(N)
  signs = jnp.asarray(rng.choice([-1., 1.], N), jnp.float32)[None]
  move = lambda w: w[:, rows][:, :, columns] * signs[None]
  for edit in SPECTRAL:
    np.testing.assert_allclose(
        edit(move(after), move(before), top_count=top),
        move(edit(after, before, top_count=top)), atol=3e-3)


@pytest.mark.parametrize('edit', SPECTRAL)
def test_bfloat16_in_is_float32_in_of_the_same_values(edit):
  before, after = (x.astype(jnp.bfloat16) for x in both(0, .3))
  wide = (x.astype(jnp.float32) for x in (after, before))
  np.testing.assert_array_equal(
      edit(after, before, top=.4), edit(*wide, top=.4))


@given(SEEDS, st.lists(st.floats(1e-7, 1.5), min_size=3, max_size=3))
@settings(max_examples=25)
def test_a_known_rotation_of_a_matrix_is_recovered(seed, angles):
  # The leading directions turn out of their span, each by its own angle.
  rng = np.random.default_rng(seed)
  u, v = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (M, N))
  s = np.linspace(7, 1, N)
  turn = np.eye(M)
  for i, angle in enumerate(angles):
    c, d = np.cos(angle), np.sin(angle)
    turn[np.ix_([i, N + i], [i, N + i])] = [[c, -d], [d, c]]
  make = lambda u: jnp.asarray(u[:, :N] * s @ v.T, jnp.float32)
  before, after = (svd.decompose(make(x), 3) for x in (u, u @ turn))
  found = rotation.subspace_angles(before, after)
  np.testing.assert_allclose(found.input, np.sort(angles), rtol=0, atol=2e-6)
  np.testing.assert_allclose(found.output, 0, atol=2e-6)
  # Of the bases themselves, without what a decomposition of float32 loses.
  exact = rotation.principal_angles(
      *(jnp.asarray(x[:, :3], jnp.float32) for x in (u, u @ turn)))
  np.testing.assert_allclose(exact, np.sort(angles), rtol=0, atol=3e-7)
