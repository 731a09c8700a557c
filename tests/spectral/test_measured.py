"""One program or one step at a time: the same numbers."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.spectral import in_place, measured, storage, svd

FRACTIONS = .2, .5
KEYS = measured.keys('w', 3, 2, 2)


def weights(stored, shape=(2, 12, 10)):
  rng = np.random.default_rng(1)
  before = rng.normal(size=shape)
  pair = before, before + .1 * rng.normal(size=shape)
  return [jnp.asarray(x, stored).astype(jnp.float32) for x in pair]


@pytest.mark.parametrize('stored, shape', [
    ('bfloat16', (2, 12, 10)), ('float32', (2, 12, 10)),
    ('bfloat16', (2, 10, 24)), ('bfloat16', (2, 24, 10)),
    ('float32', (2, 10, 10))])
def test_in_turn_is_at_once(stored, shape):
  before, after = weights(stored, shape)
  bits, rounded = storage.common(before, after)
  once = measured.measure(
      before, after, svd.decompose(before), svd.decompose(after), KEYS,
      counts=measured.counts(10, FRACTIONS), bits=bits, rounded=rounded,
      reference=False)
  found, taken = measured.in_turn(
      *(lambda x=x: np.asarray(x) for x in (before, after)), KEYS,
      fractions=FRACTIONS)
  assert taken == bits == {'bfloat16': 7, 'float32': 23}[stored]
  pairs = zip(*map(jax.tree.leaves_with_path, (once, found)), strict=True)
  for (path, a), (other, b) in pairs:
    assert path == other
    np.testing.assert_allclose(
        b, a, rtol=1e-4, atol=2e-6, err_msg=jax.tree_util.keystr(path))


def in_turn(folder=None, shape=(2, 10, 12)):
  return measured.in_turn(
      *(lambda x=x: np.asarray(x) for x in weights('float32', shape)), KEYS,
      fractions=FRACTIONS, folder=folder)


@pytest.mark.parametrize('shape', [(2, 10, 12), (2, 12, 10), (2, 10, 10)])
def test_factors_set_aside_are_the_same_factors(monkeypatch, tmp_path, shape):
  wanted, files = in_turn(shape=shape), []
  real = in_place.tempfile.TemporaryFile
  monkeypatch.setattr(in_place, 'LARGE', 0)
  monkeypatch.setattr(
      in_place.tempfile, 'TemporaryFile',
      lambda dir: files.append(dir) or real(dir=dir))
  jax.tree.map(np.testing.assert_array_equal, in_turn(tmp_path, shape), wanted)
  assert files == 5 * [tmp_path]  # those of before, and of what is beside it
  assert not list(tmp_path.iterdir())


def test_a_long_matrix_sets_nothing_aside(monkeypatch, tmp_path):
  monkeypatch.setattr(in_place, 'LARGE', 0)
  in_turn(tmp_path / 'missing', (2, 10, 30))


def test_no_room_for_factors_is_said(monkeypatch, tmp_path):
  monkeypatch.setattr(in_place, 'LARGE', 0)
  with pytest.raises(ValueError, match=r'cannot set factors .*missing'):
    in_turn(tmp_path / 'missing')


def test_what_is_coarser_decides_on_the_floor():
  narrow, wide = weights('bfloat16')[0], weights('float32')[0]
  assert storage.common(narrow, narrow) == (7, True)
  assert storage.common(narrow, wide) == (7, True)
  assert storage.common(wide, narrow) == (7, False)
  assert storage.common(wide, wide) == (23, True)
