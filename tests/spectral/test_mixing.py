"""The polar factor of mixed bases against float64, however ill-conditioned."""
import functools

import jax
import numpy as np
import pytest

from rlft.spectral import mixing


def basis(m, n, seed):
  return np.linalg.qr(np.random.default_rng(seed).normal(size=(m, n)))[0]


@functools.cache
def compiled(width):
  return jax.jit(lambda many, few, overlap, start, count: mixing.nearest_basis(
      many, few, overlap, mixing.Group(start, count, width)))


def nearest(many, few, top, tail):
  """What the kernel finds, and the float64 polar factor; columns."""
  rank = many.shape[1]
  at, chosen = mixing.group(rank, top, tail)
  if not chosen:
    many, few = few, many
  index = (at.start + np.arange(at.width)) % rank
  rows = np.float32(many.T), np.float32(few.T)
  found, sure = compiled(at.width)(
      rows[0], rows[1][index], (rows[1] @ rows[0].T)[index], at.start, at.count)
  mixed = many.copy()
  inside = index[:at.count]
  mixed[:, inside] = few[:, inside]
  u, s, vt = np.linalg.svd(np.float64(np.float32(mixed)), full_matrices=False)
  return np.float64(found).T, u @ vt, s, float(sure)


@pytest.mark.parametrize('m', [24, 40])
@pytest.mark.parametrize('top, tail', [
    (0, 0), (1, 0), (7, 0), (12, 0), (20, 0), (0, 5), (4, 9), (23, 1), (3, 2)])
@pytest.mark.parametrize('size', [.01, 1., None])
def test_the_nearest_basis_is_the_polar_factor(m, top, tail, size):
  many = basis(m, 24, 0)
  few = basis(m, 24, 1)  # unrelated
  if size is not None:
    few = np.linalg.qr(many + size / np.sqrt(m) * few)[0]
    few *= np.sign((few * many).sum(0))
  found, exact, s, _ = nearest(many, few, top, tail)
  np.testing.assert_allclose(found.T @ found, np.eye(24), atol=3e-6)
  np.testing.assert_allclose(found, exact, atol=1e-6 / s[-1] + 1e-6)


@pytest.mark.parametrize('m', [12, 30])
@pytest.mark.parametrize('left', [1e-2, 1e-3, 1e-4, 1e-6])
def test_directions_that_all_but_change_places(m, left):
  # Directions 2 and 3 turn by a right angle less `left`, and only 3 is kept.
  many = basis(m, 12, 2)
  few = many.copy()
  c, s = np.sin(left), np.cos(left)
  few[:, [2, 3]] = many[:, [2, 3]] @ [[c, -s], [s, c]]
  found, exact, _, sure = nearest(many, few, 3, 0)
  np.testing.assert_allclose(found.T @ found, np.eye(12), atol=3e-6)
  np.testing.assert_allclose(sure, left, atol=2e-7)
  # What the rounding of the bases themselves leaves of the polar factor.
  np.testing.assert_allclose(found, exact, atol=2e-7 / left + 1e-6)


def test_a_group_is_the_shorter_part_of_the_circle():
  assert mixing.group(10, 2, 1) == (mixing.Group(9, 3, 5), True)
  assert mixing.group(10, 6, 1) == (mixing.Group(6, 3, 5), False)
  assert mixing.group(10, 0, 0) == (mixing.Group(0, 0, 5), True)
  assert mixing.group(10, 10, 0) == (mixing.Group(0, 0, 5), False)
  assert mixing.group(1000, 10, 0)[0].width == 64
  assert mixing.group(4096, 2048, 0)[0].width == 2048
  widths = {mixing.group(4096, k, 0)[0].width for k in range(4097)}
  assert len(widths) == 8
