"""Angles, energies and shifts against constructed and float64 answers."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlft.spectral import rotation, svd

M, K = 24, 6
RIGHT = np.pi / 2


def orthogonal(n, seed):
  return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def turned(angles, m=M, seed=0):
  """Two random bases whose spans differ by exactly these angles."""
  k = len(angles)
  q = orthogonal(m, seed)
  a = q[:, :k]
  b = a * np.cos(angles) + q[:, k:2 * k] * np.sin(angles)
  return (jnp.asarray(a @ orthogonal(k, seed + 1), jnp.float32),
          jnp.asarray(b @ orthogonal(k, seed + 2), jnp.float32))


ANGLES = st.one_of(
    st.floats(0, RIGHT), st.floats(-8, 0).map(lambda x: 10**x),
    st.floats(-8, 0).map(lambda x: RIGHT - 10**x),
    st.sampled_from([0., 1e-6, np.pi / 4, 1., RIGHT]))


@given(st.lists(ANGLES, min_size=K, max_size=K), st.integers(0, 1000))
def test_known_angles_come_back(angles, seed):
  angles = np.array(angles)
  found = rotation.principal_angles(*turned(angles, seed=seed))
  np.testing.assert_allclose(
      np.float64(found), np.sort(angles), rtol=0, atol=3e-7)


@pytest.mark.parametrize('m, k', [(64, 32), (128, 26), (300, 100)])
def test_known_angles_come_back_at_size(m, k):
  angles = np.random.default_rng(0).uniform(0, RIGHT, k)
  angles[:4] = 0, 1e-6, 1e-4, RIGHT
  found = rotation.principal_angles(*turned(angles, m))
  np.testing.assert_allclose(
      np.float64(found), np.sort(angles), rtol=0, atol=3e-7)


@pytest.mark.parametrize('angle', [1e-6, 1e-5, 1e-4])
def test_small_angles_where_the_arccos_is_blind(angle):
  a, b = turned(np.full(K, angle))
  found = np.float64(rotation.principal_angles(a, b))
  np.testing.assert_allclose(found, angle, rtol=0, atol=1.5e-7)
  naive = jnp.arccos(jnp.clip(
      jnp.linalg.svd(a.T @ b, compute_uv=False), -1, 1))
  assert np.abs(naive - angle).max() > 1e-4


def test_the_single_precision_kernel_of_tpus_is_close():
  angles = np.array([0, 1e-5, 1e-3, .5, 1.2, RIGHT])
  found, = rotation._residual_angles(*turned(angles), counts=(K,))
  np.testing.assert_allclose(np.float64(found), angles, rtol=0, atol=2e-6)


def test_subspaces_that_must_meet_have_zero_angles():
  # Two 5-dimensional subspaces of R^7 share at least 3 dimensions.
  a, b = (jnp.asarray(orthogonal(7, s)[:, :5], jnp.float32) for s in (0, 9))
  found = rotation.principal_angles(a, b)
  assert (found[:3] < 3e-7).all() and (found[3:] > 1e-2).all()


@given(st.integers(0, 1000))
def test_angles_ignore_basis_order_sign_and_argument_order(seed):
  a, b = turned(np.linspace(.1, 1.3, K), seed=seed)
  rng = np.random.default_rng(seed)
  found = rotation.principal_angles(a, b)
  signs = jnp.asarray(rng.choice([-1., 1.], K), jnp.float32)[None]
  spun = jnp.asarray(orthogonal(K, seed), jnp.float32)
  for x, y in ((b, a), (a * signs, b), (a, b[:, rng.permutation(K)]),
               (a @ spun, b)):
    np.testing.assert_allclose(
        rotation.principal_angles(x, y), found, atol=4e-7)


def test_a_stack_is_a_loop_over_layers():
  pairs = [turned(np.linspace(0, x, K), seed=i) for i, x in enumerate((.1, 1))]
  a, b = (jnp.stack(x) for x in zip(*pairs, strict=True))
  for function in (rotation.principal_angles, rotation.procrustes,
                   rotation.projector_distance):
    np.testing.assert_allclose(
        function(a, b), np.stack([function(*p) for p in pairs]), atol=1e-6)
    np.testing.assert_allclose(
        function(a[:, None], b[:, None])[:, 0], function(a, b), atol=1e-6)


def test_procrustes_finds_the_rotation():
  a, _ = turned(np.zeros(K))
  r = jnp.asarray(orthogonal(K, 5), jnp.float32)
  np.testing.assert_allclose(rotation.procrustes(a, a @ r), r, atol=2e-6)


@pytest.mark.parametrize('angle', [1e-6, .3, 1.5])
def test_projector_distance_is_the_sines(angle):
  a, b = turned(np.full(K, angle))
  np.testing.assert_allclose(
      rotation.projector_distance(a, b), np.sqrt(2 * K) * np.sin(angle),
      rtol=1e-5, atol=1e-6)
  if angle > 1e-2:
    p, q = (np.float64(x) @ np.float64(x).T for x in (a, b))
    np.testing.assert_allclose(
        rotation.projector_distance(a, b), np.linalg.norm(p - q), rtol=1e-5)


def test_cosines_are_per_direction_and_free_of_signs():
  w = jnp.asarray(np.diag([3., 2., 1.]), jnp.float32)
  before = svd.decompose(w)
  c, s = np.cos(.2), np.sin(.2)
  turn = jnp.asarray([[c, -s, 0], [s, c, 0], [0, 0, 1]], jnp.float32)
  inputs, outputs = rotation.cosine(before, svd.decompose(turn @ w))
  np.testing.assert_allclose(inputs, [c, c, 1], atol=1e-6)
  np.testing.assert_allclose(outputs, [1, 1, 1], atol=1e-6)
  signs = jnp.array([[-1., 1., -1.]])
  flipped = svd.SVD(before.u * signs, before.s, before.vt * signs.T)
  for side in rotation.cosine(before, flipped):
    np.testing.assert_allclose(side, 1, atol=1e-6)


def test_subspace_angles_name_the_side_that_turned():
  w = jnp.asarray(np.diag([4., 3., 1.]), jnp.float32)
  c, s = np.cos(.4), np.sin(.4)
  turn = jnp.asarray([[c, 0, -s], [0, 1, 0], [s, 0, c]], jnp.float32)
  before, after = (svd.decompose(x, 2) for x in (w, turn @ w))
  inputs, outputs = rotation.subspace_angles(before, after)
  np.testing.assert_allclose(inputs, [0, .4], atol=1e-6)
  np.testing.assert_allclose(outputs, [0, 0], atol=1e-6)


def test_energy_of_a_two_by_two_by_hand():
  # Old basis: the axes. Squares 1 + 4 on the diagonal, 9 + 16 off it.
  w = jnp.array([[5., 0.], [0., 2.]])
  update = jnp.array([[1., 3.], [4., 2.]])
  found = rotation.energy(svd.decompose(w), update)
  np.testing.assert_allclose(found, [5 / 30, 25 / 30, 0], atol=1e-6)
  # Only the leading direction: C is the one entry 1 of 30.
  found = rotation.energy(svd.decompose(w, 1), update)
  np.testing.assert_allclose(found, [1 / 30, 0, 29 / 30], atol=1e-6)


@given(st.integers(0, 1000), st.sampled_from([1e-25, 1e-3, 1., 1e20]))
def test_energy_shares_sum_to_one_at_any_scale(seed, scale):
  rng = np.random.default_rng(seed)
  w, update = (jnp.asarray(x, jnp.float32)
               for x in rng.normal(size=(2, 3, 5, 8)))
  before = svd.decompose(w)
  found = rotation.energy(before, update * scale)
  np.testing.assert_allclose(sum(found), 1, atol=1e-6)
  assert all((np.asarray(share) >= 0).all() for share in found)
  inside = (np.float64(before.u.mT) @ np.float64(update)
            @ np.float64(before.vt.mT))
  total = np.square(np.float64(update)).sum((-2, -1))
  diagonal = np.square(np.diagonal(inside, axis1=-2, axis2=-1)).sum(-1)
  np.testing.assert_allclose(found.diagonal, diagonal / total, atol=1e-6)
  np.testing.assert_allclose(
      found.outside, 1 - np.square(inside).sum((-2, -1)) / total, atol=2e-6)


def test_energy_ignores_signs_and_a_zero_update_has_none():
  w = jax.random.normal(jax.random.key(0), (4, 4))
  update = jax.random.normal(jax.random.key(1), (4, 4))
  before = svd.decompose(w)
  signs = jnp.array([[-1., 1., -1., 1.]])
  flipped = svd.SVD(before.u * signs, before.s, before.vt * signs.T)
  np.testing.assert_allclose(
      rotation.energy(before, update), rotation.energy(flipped, update),
      rtol=1e-6)
  np.testing.assert_array_equal(rotation.energy(before, update * 0), [0, 0, 0])


def test_value_shift_and_stable_rank_by_hand():
  shift = rotation.value_shift(jnp.array([4., 2., 0.]),
                               jnp.array([5., 1.5, 0.]))
  np.testing.assert_allclose(shift, [.25, .25, 0], rtol=1e-6)
  # A value that is zero is measured against the resolution of the largest.
  shift = rotation.value_shift(jnp.array([1., 0.]), jnp.array([1., 1e-9]))
  assert float(shift[1]) < .01
  ranks = rotation.stable_rank(jnp.array([[2., 2.], [3., 0.], [0., 0.]]))
  np.testing.assert_allclose(ranks, [2, 1, 0])


def test_angles_of_a_tall_matrix_need_no_square_one():
  """An embedding of 150,000 words: M x M in float64 would be 180 GB."""
  bases = jax.ShapeDtypeStruct((150_000, 4), jnp.float32)
  used = jax.jit(rotation.principal_angles).lower(bases, bases).compile()
  assert used.memory_analysis().temp_size_in_bytes < 200 * 2**20
