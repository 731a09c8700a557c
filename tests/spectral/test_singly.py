"""One edit with one side's factors at a time: what a pair of both makes."""
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.spectral import in_place, pairs, published, restore, singly

SHAPES = [(2, 20, 20), (1, 12, 30), (1, 30, 12)]


def weights(shape):
  rng = np.random.default_rng(0)
  before, update = rng.normal(size=(2, *shape))
  return np.float32(before), np.float32(before + .3 * update)


def edited(edit, shape, **options):
  """By a Single, turned back."""
  before, after = weights(shape)
  found = edit(singly.Single(
      lambda: after, lambda: before, min(shape[1:])), **options)
  return found.mT if in_place.turned(shape) else found


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('edit, polar', [
    (restore.values, None), (restore.vectors, True), (restore.vectors, False),
    (restore.triplets, True), (restore.triplets, False),
    (published.vectors, None), (published.triplets, None)])
@pytest.mark.parametrize('top, tail', [
    (.25, 0), (.25, .25), (.75, 0), (0, .6), (0, 0), (1, 0)])
def test_edits_are_those_of_a_pair(shape, edit, polar, top, tail):
  options = dict(top=top, tail=tail) | (
      {} if polar is None else dict(polar=polar))
  before, after = (jnp.asarray(x) for x in weights(shape))
  np.testing.assert_allclose(
      edited(edit, shape, **options),
      edit(pairs.Pair(after, before), **options), atol=2e-5)


@pytest.mark.parametrize('edit, options', [
    (restore.values, {}), (restore.vectors, {}), (restore.triplets, {}),
    (restore.vectors, dict(top=.75)), (restore.vectors, dict(polar=False)),
    (restore.vectors, dict(top=.75, polar=False)),
    (restore.vectors, dict(top=1)), (published.vectors, {})])
def test_either_side_is_decomposed_once(monkeypatch, edit, options):
  made, real = [], in_place.decompose
  monkeypatch.setattr(in_place, 'decompose', lambda w, again: (
      made.append(w.shape) or real(w, again)))
  edited(edit, SHAPES[1], **options)
  assert made == [SHAPES[1]] * 2


def test_an_ambiguous_basis_is_said_aloud_and_orthonormal():
  after, before = (
      np.diag(np.float32(x))[None] for x in ([3, 2, 1], [2, 3, 1]))
  pair = singly.Single(lambda: after, lambda: before, 3)
  with pytest.warns(UserWarning, match='not unique'):
    found = restore.vectors(pair, top_count=1)
  np.testing.assert_allclose(
      np.linalg.svd(found, compute_uv=False), [[3, 2, 1]], atol=1e-5)
