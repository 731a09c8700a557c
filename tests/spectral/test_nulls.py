"""The null models reproduce what chance does."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.spectral import nulls, rotation, svd


@pytest.mark.parametrize('scale', [1e-25, 1e-3, 1., 1e15])
def test_random_updates_have_the_norm_of_each_matrix(scale):
  update = jax.random.normal(jax.random.key(0), (3, 5, 4))
  update = update * jnp.array([1., 10., 0.])[:, None, None] * scale
  found = nulls.norm_matched(jax.random.key(1), update)
  wanted = np.linalg.norm(np.float64(update), axis=(-2, -1))
  np.testing.assert_allclose(
      np.linalg.norm(np.float64(found), axis=(-2, -1)), wanted, rtol=1e-5)
  other = nulls.norm_matched(jax.random.key(2), update)
  assert np.abs(found[0] - other[0]).max() > .1 * scale
  assert np.abs(found[0] - found[1] / 10).max() > .1 * scale


def test_a_random_update_puts_one_in_n_on_the_diagonal():
  w = jax.random.normal(jax.random.key(0), (8, 32, 32))
  update = nulls.norm_matched(jax.random.key(1), w)
  share = rotation.energy(svd.decompose(w), update).diagonal
  # Each share has mean 1/32 and a standard deviation of about .044 / sqrt(32).
  np.testing.assert_allclose(share.mean(), 1 / 32, atol=.01)


@pytest.mark.parametrize('n, k, smallest', [
    (4096, 768, 38.7), (14336, 768, 63.2), (3584, 768, 34.8),
    (1024, 512, 0.), (3584, 512, 45.6), (18944, 768, 66.8)])
def test_the_edge_of_the_law(n, k, smallest):
  # Degrees, from the edge 2 sqrt(x(1 - x)) of the law.
  found = nulls.random_subspace_angles(n, n, k)
  assert abs(np.degrees(float(found.input[0])) - smallest) < .5
  assert np.degrees(float(found.output[-1])) > 89.5


@pytest.mark.parametrize('m, n, k', [
    (60, 40, 6), (60, 40, 20), (60, 40, 30), (40, 40, 40)])
def test_the_law_is_what_random_subspaces_do(m, n, k):
  rng = np.random.default_rng(0)
  expected = nulls.random_subspace_angles(m, n, k)
  for size, law in zip((m, n), expected, strict=True):
    draws = []
    for _ in range(40):
      a, b = (np.linalg.qr(x)[0] for x in rng.normal(size=(2, size, k)))
      cosines = np.linalg.svd(a.T @ b, compute_uv=False)
      draws.append(np.arccos(np.minimum(cosines, 1)))
    assert law.shape == (k,)
    np.testing.assert_allclose(np.mean(draws, 0), law, atol=.05)
    assert (np.asarray(law) == 0).sum() == max(2 * k - size, 0)


def test_more_directions_than_dimensions_are_refused():
  with pytest.raises(ValueError, match='9-dimensional'):
    nulls.random_subspace_angles(16, 8, 9)
