"""Decompositions in their own memory: the same factors as any other way."""
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import lapack

from rlft.spectral import in_place, svd


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def decomposed(w):
  """The factors of w, as `svd.decompose` would give them."""
  again = lambda: in_place.lying(lambda: w)
  u, s, vt = in_place.decompose(again(), again)
  return svd.SVD(vt.mT, s, u.mT) if in_place.turned(w.shape) else svd.SVD(
      u, s, vt)


def same(found, wanted):
  for one, other in zip(found, wanted, strict=True):
    np.testing.assert_array_equal(one, other)


# Long enough for LAPACK to go by a triangle, not quite, square; odd sizes
# begin at any address.
@pytest.mark.parametrize('shape', [
    (1, 24, 48), (1, 24, 40), (2, 5, 9), (3, 9, 5), (1, 17, 17), (1, 48, 24),
    (1, 33, 2500),
    (1, 9, 70_001), (1, 120, 3000)])
@pytest.mark.parametrize('scale', [1, 1e-20, 1e15])
def test_the_factors_are_the_same_bits(shape, scale):
  w = normal(*shape) * np.float32(scale)
  same(decomposed(w), svd.decompose(jnp.asarray(w)))


def test_a_matrix_that_is_not_finite_has_no_factors():
  w = normal(3, 4, 9)
  w[1, 2, 3] = np.nan
  found = decomposed(w)
  assert [np.isnan(x).all(axis=tuple(range(1, x.ndim))).tolist()
          for x in found] == [[False, True, False]] * 3
  same([x[2] for x in found], svd.decompose(jnp.asarray(w[2])))


@pytest.mark.parametrize('shape', [(2, 6, 40), (2, 7, 8)])
def test_what_divide_and_conquer_gives_up_on_is_iterated(monkeypatch, shape):
  w = normal(*shape)
  real, calls = in_place._gesdd, []

  def gives_up(a):
    calls.append(a.shape)
    *found, info = real(a)
    return (*found, info if len(calls) == 1 else 1)

  monkeypatch.setattr(in_place, '_gesdd', gives_up)
  found = decomposed(w)
  assert len(calls) == 2
  same([x[0] for x in found], svd.decompose(jnp.asarray(w[0])))
  iterated = svd.decompose(jnp.asarray(w[1]), method='gesvd')
  for one, other in zip(found, iterated, strict=True):
    np.testing.assert_allclose(one[1], other, atol=2e-6)
  monkeypatch.setattr(in_place, '_gesdd', lambda a: (*real(a)[:3], 1))
  monkeypatch.setattr(
      in_place.lapack, 'sgesvd', lambda a, **k: (a, None, a, 1))
  assert all(np.isnan(x).all() for x in decomposed(w))


def test_little_is_needed_beside_the_matrix():
  """Where six squares are a fifth of it; a copy would be all of it."""
  w = in_place.lying(lambda: normal(1, 256, 8192))
  tracemalloc.start()
  try:
    jax.block_until_ready(in_place.decompose(w, lambda: w))
    _, most = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert most < .5 * w.nbytes


def test_jax_takes_over_the_memory():
  buffer = in_place.empty((2, 3, 5))
  assert in_place.on_device(buffer).unsafe_buffer_pointer() == (
      buffer.ctypes.data)


def test_the_wrapper_works_in_the_memory_it_is_given():
  w = in_place.lying(lambda: normal(1, 4, 32))[0]
  found, *_ = lapack.sgeqrf(w.T, overwrite_a=1)
  assert np.shares_memory(found, w)


@pytest.mark.parametrize('shape', [(2, 3, 5), (2, 5, 3), (1, 4, 4)])
def test_lying_and_differences(shape):
  before, after = normal(*shape), normal(*shape, seed=1).astype(np.float16)
  long = lambda w: w.mT if shape[1] >= shape[2] else w
  found = in_place.lying(lambda: after)
  np.testing.assert_array_equal(found, long(after))
  assert found.flags.c_contiguous and found.dtype == np.float32
  np.testing.assert_array_equal(
      in_place.difference(lambda: after, lambda: before),
      long(np.float32(after) - before))
