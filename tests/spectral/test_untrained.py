"""Matrices drawn afresh are always seen; what training leaves clears them."""
import numpy as np
import pytest

from rlft.spectral import untrained


def values(w):
  return np.linalg.svd(w, compute_uv=False)


def draw(kind, rng, m, n):
  if kind == 'uniform':
    return rng.uniform(-1, 1, size=(m, n)) * 7
  w = rng.normal(size=(m, n)) * .02
  return np.clip(w, -.04, .04) if kind == 'truncated' else w


@pytest.mark.parametrize('m, n', [(32, 32), (64, 48), (128, 448), (300, 40)])
@pytest.mark.parametrize('kind', ['normal', 'uniform', 'truncated'])
def test_fresh_matrices_look_untrained(m, n, kind):
  rng = np.random.default_rng(0)
  for _ in range(20):
    s = values(draw(kind, rng, m, n))
    assert untrained.looks_untrained(s, m, n)
    assert untrained.looks_untrained(s, n, m)


@pytest.mark.parametrize('m, n', [(64, 64), (128, 300)])
def test_a_direction_beyond_the_edge_does_not(m, n):
  rng = np.random.default_rng(0)
  w = rng.normal(size=(m, n))
  w += 2 * (np.sqrt(m) + np.sqrt(n)) * np.outer(
      rng.normal(size=m), rng.normal(size=n)) / np.sqrt(m * n)
  assert not untrained.looks_untrained(values(w), m, n)


def test_neither_do_other_spectra():
  for s in (np.linspace(8, 1, 64), np.geomspace(1, 1e-3, 64), np.ones(64),
            np.zeros(64)):
    assert not untrained.looks_untrained(s, 64, 64)
  w = np.random.default_rng(0).normal(size=(16, 16))
  assert not untrained.looks_untrained(values(w), 16, 16)  # too few to tell


@pytest.mark.parametrize('m, n', [(200, 200), (200, 700)])
def test_the_law_is_that_of_large_random_matrices(m, n):
  s = np.sort(values(np.random.default_rng(1).normal(size=(m, n)))) / np.sqrt(n)
  grid, below = untrained._law(m / n)
  np.testing.assert_allclose(
      np.interp(s, grid, below), (np.arange(m) + .5) / m, atol=.02)
