"""The published formulas: their shortcut, their basis and their arccos."""
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.spectral import pairs, published, restore

N = 6


def both(seed=0):
  before, update = np.random.default_rng(seed).normal(size=(2, 3, 8, N))
  return pairs.Pair(jnp.asarray(before + .3 * update, jnp.float32),
                    jnp.asarray(before, jnp.float32))


@pytest.mark.parametrize('kw', [
    dict(top=1), dict(top=.5, tail=.5), dict(top_count=4, tail_count=2),
    dict(top_count=1024), dict(top=0, tail_count=N)])
def test_all_directions_are_the_old_weights_values_included(kw):
  pair = both()
  for edit in (published.vectors, published.triplets):
    np.testing.assert_array_equal(edit(pair, **kw), pair.before)
  with_values = restore.vectors(pair, top=1)
  assert np.abs(with_values - pair.before).max() > .05


@pytest.mark.parametrize('top, tail', [(2, 0), (0, 3), (2, 2), (5, 0)])
@pytest.mark.parametrize('name', ['vectors', 'triplets'])
def test_the_mixed_basis_is_left_as_it_is(name, top, tail):
  pair = both()
  found = getattr(published, name)(pair, top_count=top, tail_count=tail)
  ours = getattr(restore, name)(
      pair, top_count=top, tail_count=tail, polar=False)
  np.testing.assert_allclose(found, ours, atol=5e-6)
  for layer in range(3):
    (u, s, vt), (p, t, qt) = (
        np.linalg.svd(np.float64(x[layer]), full_matrices=False)
        for x in (pair.after, pair.before))
    i = np.r_[:top, N - tail:N]
    u[:, i], vt[i] = p[:, i], qt[i]
    if name == 'triplets':
      s[i] = t[i]
    np.testing.assert_allclose(found[layer], u * s @ vt, atol=2e-5)


def test_angles_are_blind_where_the_published_ones_are():
  a = jnp.eye(5, 3)
  b = a.at[4, 0].set(1e-5)
  assert float(published.principal_angles(a, b)[-1]) == 0
  angle = jnp.asarray(.3)
  b = a.at[0, 0].set(jnp.cos(angle)).at[4, 0].set(jnp.sin(angle))
  np.testing.assert_allclose(
      published.principal_angles(a, b), [0, 0, .3], atol=1e-6)
