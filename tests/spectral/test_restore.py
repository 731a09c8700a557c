"""Weight edits: what they leave alone, what they put back, how far they go."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlft.spectral import mixing, nulls, pairs, restore, svd

SPECTRAL = (restore.values, restore.vectors, restore.triplets)
L, M, N = 4, 10, 7


def pair(seed=0, size=.3):
  """Weights before and after an update."""
  rng = np.random.default_rng(seed)
  before, update = rng.normal(size=(2, L, M, N))
  return (jnp.asarray(before, jnp.float32),
          jnp.asarray(before + size * update, jnp.float32))


def lengths(x):
  return np.linalg.norm(np.float64(x), axis=(-2, -1))


@pytest.mark.parametrize('edit', SPECTRAL)
def test_restoring_nothing_is_after(edit):
  before, after = pair()
  np.testing.assert_allclose(edit(after, before, top=0), after, atol=3e-6)


@pytest.mark.parametrize('polar', [True, False])
def test_restoring_all_triplets_is_before(polar):
  before, after = pair()
  for kw in (dict(top=1), dict(top=0, tail=1), dict(top=.4, tail=.6)):
    np.testing.assert_allclose(
        restore.triplets(after, before, **kw, polar=polar), before, atol=3e-6)


def test_all_vectors_or_all_values():
  before, after = pair()
  old, new = svd.decompose(before), svd.decompose(after)
  np.testing.assert_allclose(
      restore.vectors(after, before, top=1),
      svd.compose(svd.SVD(old.u, new.s, old.vt)), atol=3e-6)
  edited = restore.values(after, before)
  np.testing.assert_allclose(
      edited, svd.compose(svd.SVD(new.u, old.s, new.vt)), atol=3e-6)
  # In the basis of `after` the edit is diagonal: its vectors are kept.
  inside = np.float64(new.u.mT) @ np.float64(edited) @ np.float64(new.vt.mT)
  np.testing.assert_allclose(
      inside - np.float64(old.s)[..., None] * np.eye(N), 0, atol=5e-6)


def numpy_vectors(after, before, top, tail, polar):
  """The same edit in float64, one matrix at a time, by slices."""
  out = []
  for x, y in zip(np.float64(after), np.float64(before), strict=True):
    (u, s, vt), (p, _, qt) = np.linalg.svd(x, False), np.linalg.svd(y, False)
    k, end = top, len(s) - tail
    sides = [np.concatenate([o[:, :k], n[:, k:end], o[:, end:]], axis=1)
             for o, n in ((p, u), (qt.T, vt.T))]
    if polar:
      sides = [np.linalg.svd(z, False) for z in sides]
      sides = [a @ b for a, _, b in sides]
    out.append(sides[0] * s @ sides[1].T)
  return np.stack(out)


@pytest.mark.parametrize('polar', [True, False])
@pytest.mark.parametrize('top, tail', [(2, 0), (0, 2), (3, 1), (7, 0)])
def test_mixed_directions_against_float64(top, tail, polar):
  before, after = pair(size=.05)
  found = restore.vectors(after, before, top=top / N, tail=tail / N,
                          polar=polar)
  exact = numpy_vectors(after, before, top, tail, polar)
  np.testing.assert_allclose(found, exact, atol=2e-4)
  assert np.abs(exact - after).max() > .05


def test_the_polar_correction_keeps_the_spectrum():
  before, after = pair(size=1.)
  values = svd.decompose(after).s
  kept = svd.decompose(restore.vectors(after, before, top=.4)).s
  np.testing.assert_allclose(kept, values, rtol=1e-5)
  raw = svd.decompose(restore.vectors(after, before, top=.4, polar=False)).s
  assert np.abs(raw / values - 1).max() > .05


@given(st.integers(0, 1000))
def test_edits_ignore_the_signs_of_either_decomposition(seed):
  before, after = pair(seed)
  old, new = svd.decompose(before), svd.decompose(after)
  rng = np.random.default_rng(seed)

  def flip(x):
    signs = jnp.asarray(rng.choice([-1., 1.], (L, N)), jnp.float32)
    return svd.SVD(x.u * signs[:, None], x.s, x.vt * signs[..., None])

  for edit in SPECTRAL:
    np.testing.assert_allclose(
        edit(flip(new), flip(old), top=.3), edit(new, old, top=.3), atol=2e-5)
    np.testing.assert_allclose(
        edit(after, before, top=.3), edit(new, old, top=.3), atol=5e-6)


def test_all_triplets_do_not_depend_on_the_order_of_directions():
  before, after = pair()
  old = svd.decompose(before)
  order = jnp.array([3, 1, 6, 0, 2, 5, 4])
  shuffled = svd.SVD(old.u[..., order], old.s[:, order], old.vt[:, order])
  np.testing.assert_allclose(
      restore.triplets(after, shuffled, top=1), before, atol=3e-6)


def test_low_rank_removes_the_leading_directions_of_the_update():
  before, after = pair()
  update = after - before
  found = np.float64(restore.low_rank(after, update, top=2 / N))
  u, s, vt = np.linalg.svd(np.float64(update), full_matrices=False)
  s[:, 2:] = 0
  np.testing.assert_allclose(
      found, np.float64(after) - u * s[:, None] @ vt, atol=3e-6)
  np.testing.assert_allclose(
      restore.low_rank(after, update, top=1), before, atol=3e-6)


@given(st.floats(0, 1, width=32))
def test_noise_goes_as_far_as_interpolation(amount):
  before, after = pair()
  straight = restore.interpolate(after, before, amount=amount)
  random = restore.noise(jax.random.key(0), after, before, amount=amount)
  np.testing.assert_allclose(
      straight, after * (1 - amount) + before * amount, atol=1e-6)
  np.testing.assert_allclose(
      lengths(straight - after), amount * lengths(before - after), atol=1e-5)
  np.testing.assert_allclose(
      lengths(random - after), lengths(straight - after), atol=1e-5)


def test_noise_is_the_null_of_the_update():
  before, after = pair()
  key = jax.random.key(5)
  np.testing.assert_allclose(
      restore.noise(key, after, before, amount=1.),
      after + nulls.norm_matched(key, before - after), atol=1e-6)


@pytest.mark.parametrize('layers, chosen', [
    ((0, 1), [0, 1, 2, 3]), ((0, .25), [0]), ((.25, .5), [1]),
    ((.75, 1), [3]), ((.3, .8), [2, 3]), ((0, .3), [0, 1])])
def test_reverting_a_range_of_layers(layers, chosen):
  before, after = pair()
  found = restore.revert(after, before, layers=layers)
  for layer in range(L):
    source = before if layer in chosen else after
    np.testing.assert_array_equal(found[layer], source[layer])


@given(st.integers(1, 100), st.integers(1, 8))
def test_equal_ranges_share_out_every_layer_once(depth, parts):
  seen = []
  for i in range(parts):
    try:
      seen += range(*restore.layer_range((i / parts, (i + 1) / parts), depth))
    except ValueError:
      assert depth < parts  # more ranges than layers
  assert seen == list(range(depth))
  assert restore.layer_range((0, 1 / parts), depth)[0] == 0


@pytest.mark.parametrize('edit', SPECTRAL)
def test_a_stack_is_a_loop_over_layers(edit):
  before, after = pair()
  whole = edit(after, before, top=.3)
  parts = [edit(a, b, top=.3) for a, b in zip(after, before, strict=True)]
  np.testing.assert_allclose(whole, np.stack(parts), atol=1e-6)


@pytest.mark.parametrize('kw', [
    dict(top=-.1), dict(top=1.1), dict(top=.6, tail=.6)])
@pytest.mark.parametrize('edit', SPECTRAL)
def test_impossible_fractions_are_refused(edit, kw):
  with pytest.raises(ValueError, match=r'top|fraction'):
    edit(*pair(), **kw)


@pytest.mark.parametrize('layers', [(.5, .5), (.6, .2), (-.1, .5), (0, 1.5)])
def test_impossible_ranges_are_refused(layers):
  with pytest.raises(ValueError, match='range of fractions'):
    restore.revert(*pair(), layers=layers)
  with pytest.raises(ValueError, match='none of 4 layers'):
    restore.revert(*pair(), layers=(.3, .4))


def test_a_sweep_over_fractions_compiles_once():
  before, after = (svd.decompose(x) for x in pair())
  restore.vectors(after, before, top=.1)
  size = mixing._orthonormal._cache_size()
  for top in (.2, .5, 1.):
    restore.vectors(after, before, top=top, tail=1 - top)
  assert mixing._orthonormal._cache_size() == size


@pytest.mark.parametrize('edit', SPECTRAL)
@pytest.mark.parametrize('by_count, by_fraction', [
    (dict(top_count=3), dict(top=3 / N, tail=0)),
    (dict(top=.0, tail_count=2), dict(top=0, tail=2 / N)),
    (dict(top_count=2, tail_count=4), dict(top=2 / N, tail=4 / N))])
def test_counts_are_fractions_of_the_directions(edit, by_count, by_fraction):
  before, after = pair()
  np.testing.assert_array_equal(
      edit(after, before, **by_count), edit(after, before, **by_fraction))


@pytest.mark.parametrize('kw, complaint', [
    (dict(top=.2, top_count=2), 'either top'), (dict(top_count=8), 'lower it'),
    (dict(tail=.2, tail_count=2), 'either tail'),
    (dict(top_count=-1), 'top_count=-1'), (dict(top_count=True), 'True'),
    (dict(top_count=4, tail_count=4), 'overlap: 4')])
def test_impossible_counts_are_refused(kw, complaint):
  for edit in SPECTRAL:
    with pytest.raises(ValueError, match=complaint):
      edit(*pair(), **kw)


def test_two_halves_of_an_odd_number_are_all():
  before, after = pair()
  np.testing.assert_array_equal(
      restore.triplets(after, before, top=.5, tail=.5), before)


def test_nothing_and_everything_are_exact():
  before, after = pair()
  for edit in SPECTRAL:
    np.testing.assert_array_equal(edit(after, before, top=0), after)
  for polar in (True, False):
    np.testing.assert_array_equal(
        restore.triplets(after, before, top=1, polar=polar), before)
  np.testing.assert_array_equal(
      restore.low_rank(after, after - before, top=0), after)


def test_a_pair_is_factored_once_for_any_number_of_edits(monkeypatch):
  made = []
  real = svd.decompose
  monkeypatch.setattr(svd, 'decompose', lambda w, *a, **k: (
      made.append(w.shape) or real(w, *a, **k)))
  before, after = pair()
  both = pairs.Pair(after, before)
  for i in range(20):
    for edit in SPECTRAL:
      edit(both, top=i / 19)
  assert made.count((L, M, N)) == 2


@pytest.mark.parametrize('edit', [restore.vectors, restore.triplets])
def test_a_sweep_is_its_points_in_any_order(edit):
  before, after = pair()
  both = pairs.Pair(after, before)
  for top, tail in ((1, 0), (2, 0), (5, 0), (4, 0), (4, 2), (3, 2), (6, 0),
                    (0, 0), (7, 0), (6, 1), (6, 1), (5, 0)):
    np.testing.assert_allclose(
        edit(both, top_count=top, tail_count=tail, polar=False),
        edit(after, before, top_count=top, tail_count=tail, polar=False),
        atol=2e-5)


def test_a_pair_stands_alone():
  before, after = pair()
  with pytest.raises(ValueError, match='give no other'):
    restore.vectors(pairs.Pair(after, before), before)
  with pytest.raises(ValueError, match='give the stack before'):
    restore.vectors(after)


def test_an_ambiguous_basis_is_said_aloud_and_orthonormal():
  # The leading directions have changed places: the span of the restored one
  # is that of a kept one, and no orthonormal basis is nearest.
  after = jnp.asarray(np.diag([3., 2., 1.]), jnp.float32)
  before = jnp.asarray(np.diag([2., 3., 1.]), jnp.float32)
  for tall in (False, True):
    x, y = (jnp.pad(w, ((0, 3 * tall), (0, 0))) for w in (after, before))
    with pytest.warns(UserWarning, match='not unique'):
      found = restore.vectors(x, y, top_count=1)
    np.testing.assert_allclose(svd.decompose(found).s, [3, 2, 1], atol=1e-5)


@pytest.mark.parametrize('numbers, complaint', [
    ((2, 2), '2:2'), ((-1, 2), 'no range of the layers'), ((1, 5), '0 to 4')])
def test_layers_by_number(numbers, complaint):
  before, after = pair()
  found = restore.revert(after, before, layer_numbers=(1, 3))
  for layer in range(L):
    source = before if layer in (1, 2) else after
    np.testing.assert_array_equal(found[layer], source[layer])
  np.testing.assert_array_equal(restore.revert(after, before), before)
  with pytest.raises(ValueError, match=complaint):
    restore.revert(after, before, layer_numbers=numbers)
  with pytest.raises(ValueError, match='either layers'):
    restore.revert(after, before, layers=(0, .5), layer_numbers=(0, 1))
