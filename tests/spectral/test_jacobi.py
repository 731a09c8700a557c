"""The kernel of products against LAPACK in float64, on hard matrices."""
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.spectral import householder, jacobi, products, svd


def orthonormal(rng, m, n):
  return np.linalg.qr(rng.normal(size=(m, n)))[0]


def spectrum(values):
  """A matrix with given singular values."""
  def make(rng, m, n):
    k = min(m, n)
    return (orthonormal(rng, m, k) * values(k)) @ orthonormal(rng, n, k).T
  return make


def spiked(rng, m, n):
  return rng.normal(size=(m, n)) + spectrum(
      lambda k: np.where(np.arange(k) < 5, 8 * np.sqrt(max(m, n)), 0))(
          rng, m, n)


KINDS = {
    'random': lambda rng, m, n: rng.normal(size=(m, n)),
    'spiked': spiked,
    'geometric': spectrum(lambda k: np.geomspace(1, 1e-5, k)),
    'rank deficient': lambda rng, m, n: (
        rng.normal(size=(m, n // 4)) @ rng.normal(size=(n // 4, n))),
    'repeated': spectrum(lambda k: np.repeat([3, 2, 1, .5], -(-k // 4))[:k]),
    'zero': lambda rng, m, n: np.zeros((m, n)),
    'identity': lambda rng, m, n: np.eye(m, n),
    'rank one': lambda rng, m, n: np.outer(
        rng.normal(size=m), rng.normal(size=n)),
    'empty rows and columns': lambda rng, m, n: (
        rng.normal(size=(m, n)) * (rng.random(n) > .3) *
        (rng.random((m, 1)) > .3)),
    'bfloat16': lambda rng, m, n: np.asarray(
        jnp.asarray(rng.normal(size=(m, n)), jnp.bfloat16), np.float32),
    'tiny': lambda rng, m, n: 1e-30 * rng.normal(size=(m, n)),
    'huge': lambda rng, m, n: 1e30 * rng.normal(size=(m, n)),
}
SHAPES = {'square': (96, 96), 'tall': (150, 40), 'wide': (30, 70)}
KERNEL = jax.jit(lambda w: svd.decompose(w, method='tpu'))


def turned(a, b):
  """Sine of the largest angle between the spans of two orthonormal bases."""
  return np.linalg.norm(b - a @ (a.T @ b), 2)


def check(w, found):
  """The stated accuracy, against float64; LAPACK's own where it depends."""
  u, s, vt = (np.asarray(x, np.float64) for x in found)
  single = [np.asarray(x, np.float64)
            for x in jnp.linalg.svd(w, full_matrices=False)]
  w = np.asarray(w, np.float64)
  exact = np.linalg.svd(w, full_matrices=False)
  size = max(exact[1][0], np.finfo(np.float32).tiny)
  eye = np.eye(len(s))
  assert (np.diff(s) <= 0).all() and s[-1] >= 0
  np.testing.assert_allclose(u.T @ u, eye, atol=1e-5)
  np.testing.assert_allclose(vt @ vt.T, eye, atol=1e-5)
  assert np.linalg.norm((u * s) @ vt - w) <= 1e-5 * np.linalg.norm(w) + 1e-37
  np.testing.assert_allclose(s, exact[1], atol=2e-6 * size)
  k = len(s) // 5
  if exact[1][k - 1] - exact[1][k] > 1e-4 * size:  # else there is no subspace
    for mine, theirs, true in (
        (u[:, :k], single[0][:, :k], exact[0][:, :k]),
        (vt[:k].T, single[2][:k].T, exact[2][:k].T)):
      assert turned(true, mine) <= 5 * max(turned(true, theirs), 1e-7)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('kind', KINDS)
def test_accuracy(kind, shape):
  rng = np.random.default_rng(0)
  w = jnp.asarray(KINDS[kind](rng, *SHAPES[shape]), jnp.float32)
  check(w, KERNEL(w))


def six_passes(a, b):
  """A float32 product as a TPU makes it: of three bfloat16 parts each."""
  def parts(x):
    found = []
    for _ in range(3):
      found.append(jax.lax.reduce_precision(x, 8, 7))
      x = x - found[-1]
    return found
  (a1, a2, a3), (b1, b2, b3) = parts(a), parts(b)
  dot = lambda x, y: jnp.matmul(x, y, precision='highest')
  small = dot(a1, b3) + dot(a2, b2) + dot(a3, b1)
  return small + (dot(a1, b2) + dot(a2, b1)) + dot(a1, b1)


@pytest.mark.slow
def test_accuracy_with_products_of_bfloat16_passes(monkeypatch):
  used = []
  monkeypatch.setattr(
      products, 'full', lambda a, b: used.append(1) or six_passes(a, b))
  emulated = jax.jit(functools.partial(svd._finite, svd._products))
  for kind in KINDS:
    w = jnp.asarray(
        KINDS[kind](np.random.default_rng(1), 96, 96), jnp.float32)
    check(w, emulated(w))
  assert used


def test_every_dot_for_a_tpu_is_of_highest_precision():
  text = jax.jit(jacobi.svd).trace(
      jax.ShapeDtypeStruct((256, 256), jnp.float32)).lower(
          lowering_platforms=('tpu',)).as_text()
  dots = [x for x in text.splitlines() if 'dot_general' in x]
  assert len(dots) > 10
  for dot in dots:
    assert 'precision = [HIGHEST, HIGHEST]' in dot, dot
  assert any('bf16' in dot for dot in dots)  # the coarse sweeps
  assert not re.search('custom_call|cholesky|triangular_solve', text)


def test_a_coarse_product_is_of_bfloat16_operands():
  rng = np.random.default_rng(0)
  a, b = (jnp.asarray(rng.normal(size=(9, 9)), jnp.float32) for _ in 'ab')
  narrow = [np.asarray(x.astype(jnp.bfloat16), np.float64) for x in (a, b)]
  np.testing.assert_allclose(
      products.coarse(a, b), narrow[0] @ narrow[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('shape', [(640, 640, 640), (640, 130, 1024)])
def test_a_product_in_tiles_is_the_product(shape):
  m, k, n = shape
  rng = np.random.default_rng(0)
  a, b, c = (jnp.asarray(rng.normal(size=s), jnp.float32)
             for s in ((m, k), (k, n), (m, n)))
  np.testing.assert_allclose(
      products.large(a, b, onto=c), np.asarray(c, np.float64) +
      np.asarray(a, np.float64) @ np.asarray(b, np.float64), atol=2e-4)


def test_qr_completes_what_depends_on_other_columns():
  rng = np.random.default_rng(0)
  a = rng.normal(size=(70, 32)).astype(np.float32)
  a[:, 3] = 0
  a[:, 9] = a[:, 4]
  q, r = map(np.asarray, householder.qr(jnp.asarray(a), block=8))
  np.testing.assert_allclose(q.T @ q, np.eye(32), atol=3e-6)
  np.testing.assert_allclose(q @ r, a, atol=2e-5)
  assert not np.tril(r, -1).any()


def test_not_finite_is_nan_and_only_there():
  w = np.ones((3, 8, 6), np.float32)
  w[1, 2, 3] = np.inf
  for method in ('tpu', 'library'):
    found = svd.decompose(jnp.asarray(w), method=method)
    for x in found:
      assert np.isnan(x[1]).all() and np.isfinite(x[::2]).all()


def test_an_unknown_method_is_named():
  with pytest.raises(ValueError, match="no method 'fast'; known: tpu, lib"):
    svd.decompose(jnp.eye(4), method='fast')


def test_trips_fall_with_what_is_left_to_do():
  random = jax.random.normal(jax.random.key(0), (64, 64))
  diagonal = jnp.diag(jnp.arange(64., 0, -1))
  svd_of = jax.jit(jacobi.svd)
  assert int(svd_of(diagonal).trips.full) < int(svd_of(random).trips.full)


@pytest.mark.parametrize('place', [(3, 7), (639, 2), (130, 510)])
def test_what_is_left_is_found_in_every_tile(place):
  i, j = place
  x = np.diag(np.arange(640, 0, -1)).astype(np.float32)
  x[i, j] = 1e-3  # a cross term of 1e-3 times the length of column j
  assert float(jacobi._left(jnp.asarray(x))) == 0  # small for such a gap
  x[j, j] = x[i, i]  # equal lengths: no product can take it out
  np.testing.assert_allclose(
      jacobi._left(jnp.asarray(x)), 1e-3 / 640, rtol=1e-4)
