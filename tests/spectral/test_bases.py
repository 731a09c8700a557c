"""Factors by name and by content, and the matrix that has none."""
import os

import jax.numpy as jnp
import numpy as np
import pytest

from rlft.spectral import bases, svd


def tree():
  w = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
  return {'layers': {'mlp': {'up': {'kernel': jnp.asarray(w)}}},
          'head': {'kernel': jnp.asarray(w[0])}}


def test_factors_of_the_selected_matrices():
  found = bases.bases(tree())
  assert list(found) == ['layers/mlp/up/kernel']
  np.testing.assert_allclose(
      svd.compose(found['layers/mlp/up/kernel']),
      tree()['layers']['mlp']['up']['kernel'], atol=2e-6)
  assert set(bases.bases(tree(), 'kernel')) == {
      'layers/mlp/up/kernel', 'head/kernel'}


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_matrix_that_is_not_finite_is_named(bad):
  params = tree()
  up = params['layers']['mlp']['up']
  up['kernel'] = up['kernel'].at[2, 1, 1].set(bad)
  with pytest.raises(ValueError, match='layers/mlp/up/kernel, layer 2'):
    bases.bases(params)
  params = tree()
  params['head']['kernel'] = params['head']['kernel'] * bad
  with pytest.raises(ValueError, match='head/kernel holds'):
    bases.bases(params, 'head')


def stack(seed=0, dtype=np.float32):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(2, 5, 4)), dtype)


@pytest.fixture(params=['memory', 'folder'])
def folder(request, tmp_path):
  return None if request.param == 'memory' else tmp_path / 'factors'


@pytest.fixture
def made(monkeypatch):
  """The shapes that were decomposed."""
  calls = []
  real = svd.decompose
  monkeypatch.setattr(
      svd, 'decompose', lambda w, k=None: calls.append(w.shape) or real(w, k))
  return calls


def test_equal_matrices_are_factored_once(folder, made):
  cache = bases.Cache(folder)
  first = bases.factors('a', stack(), cache)
  again = bases.factors('renamed', stack() + 0, cache)
  assert len(made) == 1
  for x, y in zip(first, again, strict=True):
    np.testing.assert_array_equal(x, y)
  found = bases.bases(tree(), cache=cache)
  assert bases.bases(tree(), cache=cache).keys() == found.keys()
  assert len(made) == 2


def test_another_bit_dtype_or_shape_is_another_key(folder, made):
  cache = bases.Cache(folder)
  x = stack()
  for other in (x, x.at[1, 4, 3].add(1e-6), x.astype(jnp.bfloat16),
                x.reshape(1, 2, 5, 4), x[:1]):
    found = cache.get(other)
    np.testing.assert_allclose(
        svd.compose(found), other.astype(jnp.float32), atol=1e-5)
  assert len(made) == 5


def test_a_folder_outlives_its_cache_and_holds_no_halves(tmp_path, made):
  bases.Cache(tmp_path).get(stack())
  bases.Cache(tmp_path).get(stack())
  assert len(made) == 1
  assert [p.suffix for p in tmp_path.iterdir()] == ['.safetensors']


@pytest.mark.parametrize('damage', ['flip', 'cut', 'empty', 'header', 'other'])
def test_a_damaged_file_is_named_and_made_again(tmp_path, made, damage):
  cache = bases.Cache(tmp_path)
  right = cache.get(stack())
  path, = tmp_path.iterdir()
  data = bytearray(path.read_bytes())
  if damage == 'flip':
    data[-5] ^= 1
  elif damage == 'header':
    data[0] ^= 0xff
  elif damage == 'other':  # whole, but of another matrix shape
    other = bases.Cache(tmp_path / 'other')
    other.get(stack()[:1])
    data = next((tmp_path / 'other').iterdir()).read_bytes()
  path.write_bytes(
      {'cut': data[:-40], 'empty': b''}.get(damage, bytes(data)))
  made.clear()
  with pytest.warns(UserWarning, match='damaged'):
    found = cache.get(stack())
  assert len(made) == 1
  np.testing.assert_array_equal(found.s, right.s)
  cache.get(stack())  # the file is whole again
  assert len(made) == 1


def test_a_cache_is_bounded_and_forgets_what_was_used_longest_ago(folder, made):
  cache = bases.Cache(folder)
  one = sum(x.nbytes for x in cache.get(stack()))
  if folder:
    one = next(folder.iterdir()).stat().st_size
  cache.limit = 5 * one // 2
  for seed in (0, 1):
    cache.get(stack(seed))
    if folder:  # file times need not differ between two writes
      for age, path in enumerate(sorted(
          folder.iterdir(), key=lambda p: p.stat().st_mtime_ns, reverse=True)):
        os.utime(path, (1e9 - age, 1e9 - age))
  cache.get(stack(0))  # the newer one now
  cache.get(stack(2))  # no room for three
  made.clear()
  cache.get(stack(0))
  assert not made
  cache.get(stack(1))
  assert len(made) == 1


def test_what_is_larger_than_the_limit_is_not_kept(folder, made):
  cache = bases.Cache(folder, limit=100)
  cache.get(stack())
  cache.get(stack())
  assert len(made) == 2
  assert not folder or not list(folder.iterdir())


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
  cache = bases.Cache(tmp_path)

  def fail(*_):
    raise OSError('disk full')

  monkeypatch.setattr(os, 'replace', fail)
  with pytest.raises(OSError, match='disk full'):
    cache.get(stack())
  assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_is_named(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(ValueError, match='cannot keep factors in'):
    bases.Cache(tmp_path / 'file')
