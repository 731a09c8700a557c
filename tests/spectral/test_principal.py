"""Principal weights, visible changes, stable ranks: by hand and by chance."""
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlft.spectral import nulls, principal, rotation, svd, updates


def normal(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


@given(st.integers(0, 1000), st.floats(.02, 1),
       st.sampled_from([1e-30, 1, 1e30]))
def test_the_largest_entries_against_sorting(seed, share, scale):
  x = normal(3, 7, 6, seed=seed) * scale
  count = max(round(share * 42), 1)
  for layer, mask in zip(np.abs(x), principal.largest(x, share), strict=True):
    least = np.sort(layer, axis=None)[-count]
    np.testing.assert_array_equal(mask, layer >= least)


def test_ties_are_all_in_and_zeros_are_out():
  x = jnp.array([[3., -2., 2., 2.], [0., 0., 0., 0.]])
  np.testing.assert_array_equal(
      principal.largest(x, .25), [[True] * 4, [False] * 4])
  np.testing.assert_array_equal(
      principal.largest(x, 1.), [[True] * 4, [False] * 4])
  assert not principal.largest(x * 0).any()


def test_the_mask_is_of_the_best_approximation():
  w = normal(2, 12, 9)
  found = principal.mask(svd.decompose(w), 2, .3)
  for layer, mask in zip(np.float64(w), found, strict=True):
    u, s, vt = np.linalg.svd(layer, full_matrices=False)
    low = np.abs(u[:, :2] * s[:2] @ vt[:2])
    np.testing.assert_array_equal(mask, low >= np.sort(low, None)[-32])
  assert (np.asarray(found) != principal.largest(w)).any()


def test_overlap_by_hand():
  weights = jnp.array([[[True, True], [False, False]]] * 2)
  changed = jnp.array([[[True, False], [True, True]], [[False] * 2] * 2])
  one, none = principal.overlap(weights, changed)
  np.testing.assert_allclose(one, 1 / 3, rtol=1e-6)
  assert np.isnan(none)


def test_chance_values_of_overlap_alignment_and_energy():
  w, update = normal(6, 40, 60), normal(6, 40, 60, seed=1)
  old = svd.decompose(w)
  mask = principal.mask(old, 8)
  np.testing.assert_allclose(
      principal.overlap(mask, principal.largest(update)).mean(), .3, atol=.02)
  np.testing.assert_allclose(
      principal.energy(old, update, 8).mean(), 64 / 2400, atol=.004)
  other = svd.decompose(update)
  angles = rotation.principal_angles(old.vt.mT[..., :8], other.vt.mT[..., :8])
  found = principal.alignment(angles)
  np.testing.assert_allclose(found.mean(), 8 / 60, atol=.02)
  # The subspace similarity |V'V'|_F^2 / K.
  similarity = np.square(np.float64(old.vt[:, :8] @ other.vt[:, :8].mT)).sum(
      (1, 2)) / 8
  np.testing.assert_allclose(found, similarity, atol=1e-6)


def test_an_update_of_the_leading_directions_is_all_principal():
  old = svd.decompose(normal(12, 9))
  update = old.u[:, :3] @ normal(3, 3, seed=2) @ old.vt[:3]
  np.testing.assert_allclose(principal.energy(old, update, 3), 1, atol=1e-6)
  assert float(principal.energy(old, update * 0, 3)) == 0


FLOATS = st.floats(-2.**99, 2.**99, width=32, allow_subnormal=False)


@given(st.lists(
    st.tuples(FLOATS, st.floats(-.02, .02)), min_size=6, max_size=6))
def test_unchanged_is_equality_in_bfloat16(entries):
  w = np.array([x for x, _ in entries], np.float32).reshape(2, 3)
  after = np.float32(w * (1 + np.array([d for _, d in entries]).reshape(2, 3)))
  equal = w.astype(ml_dtypes.bfloat16) == after.astype(ml_dtypes.bfloat16)
  np.testing.assert_array_equal(
      updates.unchanged(jnp.asarray(w), jnp.asarray(after)), equal)
  np.testing.assert_allclose(
      updates.sparsity(jnp.asarray(w), jnp.asarray(after)), equal.mean())


@pytest.mark.parametrize('m, n', [(300, 200), (120, 500), (12, 30)])
@pytest.mark.parametrize('kind', ['flat', 'spiked', 'steep', 'thin', 'zero'])
def test_the_largest_value_and_the_stable_rank(m, n, kind):
  w = np.float64(normal(m, n))
  if kind == 'spiked':
    w[:, 0] *= 5
  elif kind == 'steep':
    u, s, vt = np.linalg.svd(w, full_matrices=False)
    w = u * np.geomspace(1, 1e-5, len(s)) @ vt
  elif kind == 'thin':
    w = w[:, :2] @ np.float64(normal(2, n, seed=3)) * 1e-20
  elif kind == 'zero':
    w = w * 0
  s = np.linalg.svd(np.float64(np.float32(w)), compute_uv=False)
  found = updates.largest_value(jnp.asarray(w, jnp.float32)[None])
  np.testing.assert_allclose(found, s[:1], rtol=2e-5)
  rank = np.square(s / s[0]).sum() if s[0] else 0
  np.testing.assert_allclose(
      updates.stable_rank(jnp.asarray(w, jnp.float32)), rank, rtol=5e-5)


@pytest.mark.parametrize('scale', [1e-25, 1., 1e15])
def test_another_update_takes_the_norm_of_this_one(scale):
  other, update = normal(3, 5, 4, seed=1) * 1e-20, normal(3, 5, 4) * scale
  other = other.at[2].set(0)
  found = nulls.scaled(other, update)
  length = lambda x: np.linalg.norm(np.float64(x), axis=(1, 2))
  np.testing.assert_allclose(length(found)[:2], length(update)[:2], rtol=1e-5)
  np.testing.assert_allclose(
      found[0] / length(found)[0], other[0] / length(other)[0], rtol=1e-4,
      atol=1e-9)
  assert not found[2].any()
