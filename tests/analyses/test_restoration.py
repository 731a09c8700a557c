"""Sweeps of edits: identities, distances, controls, labels, complaints."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.analyses import restoration
from rlft.ops import trees
from rlft.spectral import bases, svd

L, D, F = 4, 8, 12


def weights(seed=0):
  rng = np.random.default_rng(seed)
  random = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return {
      'embed': {'embedding': random(5, D)},
      'layers': {
          'attention': {'query': {'kernel': random(L, D, D)},
                        'out': {'kernel': random(L, D, D)}},
          'mlp': {'up': {'kernel': random(L, D, F)}},
          'mlp_norm': {'scale': random(L, D)}},
      'head': {'kernel': random(D, 5)}}


BEFORE = weights(0)
AFTER = jax.tree.map(lambda w, d: w + .1 * d, BEFORE, weights(1))
SHAPES = jax.eval_shape(lambda: AFTER)
SWEEP = [
    dict(kind='none'), dict(kind='vectors', top=.2), dict(kind='vectors'),
    dict(kind='vectors', top=.25, tail=.25),
    dict(kind='vectors', top=.25, polar=False),
    dict(kind='vectors', top=.5, layers=(0, .25)),
    dict(kind='values', top=1), dict(kind='triplets', top=1),
    dict(kind='triplets', top=.5, modules=('query', 'up')),
    dict(kind='revert'), dict(kind='revert', layers=(0., .25)),
    dict(kind='revert', layers=[.25, .5]), dict(kind='revert',
                                                modules=('query',)),
    dict(kind='interpolate', amount=.25), dict(kind='interpolate', distance=1),
    dict(kind='low_rank', top=.2), dict(kind='noise', amount=.25),
    dict(kind='noise', distance=.5, layers=(.5, 1)),
    dict(kind='vectors', top_count=3), dict(kind='vectors', tail_count=2),
    dict(kind='vectors', reference=True),
    dict(kind='revert', layer_numbers=(1, 3)),
]
SWEEP.pop(2)  # the default of the one before


def run(*sweep, **kw):
  return list(restoration.edits(BEFORE, AFTER, sweep=sweep, **kw))


def changed(params):
  """The leaves that an edit touched, with the layers it touched."""
  old, new = trees.named(AFTER), trees.named(params)
  return {p: [i for i in range(len(old[p])) if (old[p][i] != new[p][i]).any()]
          for p in old if (old[p] != new[p]).any()}


def test_labels_kinds_and_controls():
  found = run(*SWEEP)
  assert [e.label for e in found] == [
      'none', 'vectors top=0.2', 'vectors top=0.25 tail=0.25',
      'vectors top=0.25 polar=False', 'vectors top=0.5 layers=0:0.25',
      'values top=1.0', 'triplets top=1.0', 'triplets top=0.5 modules=query,up',
      'revert', 'revert layers=0:0.25', 'revert layers=0.25:0.5',
      'revert modules=query', 'interpolate 0.25', 'interpolate distance=1',
      'low_rank top=0.2', 'noise 0.25', 'noise distance=0.5 layers=0.5:1',
      'vectors top_count=3', 'vectors top=0.2 tail_count=2',
      'vectors top=0.2 reference=True', 'revert layer_numbers=1:3']
  assert {e.kind for e in found if e.control} == {
      'none', 'interpolate', 'low_rank', 'noise'}
  assert {e.kind for e in found if not e.control} == {
      'vectors', 'values', 'triplets', 'revert'}


def test_distances_are_measured_over_all_leaves():
  for edit in run(*SWEEP):
    for other, found in ((AFTER, edit.distance_to_after),
                         (BEFORE, edit.distance_to_before)):
      exact = np.sqrt(sum(
          np.square(np.float64(a) - np.float64(b)).sum() for a, b in zip(
              jax.tree.leaves(edit.params), jax.tree.leaves(other),
              strict=True)))
      np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)


def test_embedding_head_and_norms_are_never_touched():
  for edit in run(*SWEEP):
    assert all(p.startswith('layers/') and p.endswith('kernel')
               for p in changed(edit.params)), edit.label


def test_nothing_and_everything():
  none, all_triplets, revert, whole, low_rank = run(
      dict(kind='none'), dict(kind='triplets', top=1), dict(kind='revert'),
      dict(kind='interpolate', amount=1), dict(kind='low_rank', top=1))
  assert trees.fingerprint(none.params) == trees.fingerprint(AFTER)
  assert none.distance_to_after == 0
  for path, leaf in trees.matrices(BEFORE).items():
    np.testing.assert_array_equal(trees.named(revert.params)[path], leaf)
    for edit in (all_triplets, whole, low_rank):
      np.testing.assert_allclose(
          trees.named(edit.params)[path], leaf, atol=1e-5)


def test_layers_and_modules_bound_an_edit():
  found = {e.label: changed(e.params) for e in run(
      dict(kind='revert', layers=(0, .25)),
      dict(kind='vectors', layers=(.5, 1), modules=('up',)),
      dict(kind='noise', amount=.1, modules=('query', 'out')))}
  query, out, up = (f'layers/{m}/kernel' for m in (
      'attention/query', 'attention/out', 'mlp/up'))
  assert found == {
      'revert layers=0:0.25': {query: [0], out: [0], up: [0]},
      'vectors top=0.2 layers=0.5:1 modules=up': {up: [2, 3]},
      'noise 0.1 modules=query,out': {query: [0, 1, 2, 3], out: [0, 1, 2, 3]}}


def test_a_selected_head_is_in_no_layer():
  edits = run(dict(kind='revert'), dict(kind='revert', layers=(0, .5)),
              dict(kind='vectors', top=.5), select='kernel')
  assert [changed(e.params).get('head/kernel') is not None
          for e in edits] == [True, False, True]
  with pytest.raises(ValueError, match='no selected matrix'):
    run(dict(kind='revert', layers=(0, .5)), select='head')


@pytest.mark.parametrize('kind', ['interpolate', 'noise'])
@pytest.mark.parametrize('place', [
    {}, dict(layers=(0, .5)), dict(modules=('up',))])
def test_controls_at_a_distance_end_there(kind, place):
  edit, = run(dict(kind=kind, distance=.4, **place))
  np.testing.assert_allclose(edit.distance_to_after, .4, rtol=1e-5)


def test_noise_and_interpolation_of_one_amount_are_equally_far():
  straight, random, other = (
      run(dict(kind=kind, amount=.25), seed=seed)[0]
      for kind, seed in (('interpolate', 0), ('noise', 0), ('noise', 1)))
  np.testing.assert_allclose(
      random.distance_to_after, straight.distance_to_after, rtol=1e-5)
  assert random.distance_to_before > straight.distance_to_before
  assert float(trees.distance(random.params, other.params)) > .1


def test_interpolation_matched_to_an_edit():
  edit, = run(dict(kind='vectors', top=.5))
  control = run(dict(
      kind='interpolate', distance=edit.distance_to_after))[0].params
  np.testing.assert_allclose(
      trees.distance(control, AFTER), edit.distance_to_after, rtol=1e-5)
  # On the straight way: both distances within the blocks add up.
  blocks = lambda t: trees.matrices(t)
  whole = float(trees.distance(blocks(AFTER), blocks(BEFORE)))
  rest = float(trees.distance(blocks(control), blocks(BEFORE)))
  np.testing.assert_allclose(
      rest + edit.distance_to_after, whole, rtol=1e-5)


def test_a_matched_control_goes_as_far_as_its_edit():
  first = 'vectors top=0.5 layers=0:0.25'
  entries = [dict(kind='vectors', top=.5, layers=(0, .25))] + [
      dict(kind=kind, match=first) for kind in ('interpolate', 'noise')]
  edits = list(restoration.edits(BEFORE, AFTER, sweep=entries))
  assert edits[1].label == (
      'interpolate match=vectors:top=0.5:layers=0:0.25')
  for control in edits[1:]:
    np.testing.assert_allclose(
        control.distance_to_after, edits[0].distance_to_after, rtol=1e-5)
  with pytest.raises(ValueError, match=r'no earlier edit.*known: none'):
    restoration.edits(BEFORE, AFTER, sweep=entries[::-1])


def test_numbers_of_layers_and_directions():
  revert, few, same, reference, published = run(
      dict(kind='revert', layer_numbers=(1, 3)),
      dict(kind='vectors', top_count=2), dict(kind='vectors', top=.25),
      dict(kind='vectors', top=1, reference=True),
      dict(kind='vectors', top=.25, reference=True))
  assert set(map(tuple, changed(revert.params).values())) == {(1, 2)}
  assert trees.fingerprint(few.params) == trees.fingerprint(same.params)
  # The shortcut of the published code is a reversion.
  for path, leaf in trees.matrices(BEFORE).items():
    np.testing.assert_array_equal(trees.named(reference.params)[path], leaf)
  assert published.distance_to_after != same.distance_to_after


def test_a_sweep_of_twenty_points_factors_each_matrix_twice(monkeypatch):
  made = []
  real = svd.decompose
  monkeypatch.setattr(svd, 'decompose', lambda w, *a, **k: (
      made.append(w.shape) or real(w, *a, **k)))
  stacks = [x.shape for x in trees.matrices(BEFORE).values()]
  run(*(dict(kind='vectors', top=i / 20, polar=i % 2 == 0)
        for i in range(1, 21)), *(
            dict(kind='values', top=i / 20) for i in range(1, 21)))
  # Of the stacks themselves: what a polar correction decomposes is smaller.
  whole = [shape for shape in made if shape in stacks]
  assert sorted(whole) == sorted(2 * stacks)


def test_sweeps_share_a_cache(monkeypatch):
  cache = bases.Cache()
  first, = run(dict(kind='vectors'), cache=cache)
  monkeypatch.setattr(svd, 'decompose', None)
  again, = run(dict(kind='vectors'), cache=cache)
  assert trees.fingerprint(first.params) == trees.fingerprint(again.params)


def test_edits_come_one_at_a_time_and_factors_once(monkeypatch):
  run(*SWEEP)  # the polar corrections inside the edits are traced by now
  calls = []
  real = svd.decompose
  monkeypatch.setattr(
      svd, 'decompose', lambda w, k=None: calls.append(w.shape) or real(w, k))
  stream = restoration.edits(BEFORE, AFTER, sweep=SWEEP)
  next(stream)
  assert not calls  # 'none' needs no factors
  list(stream)
  assert len(calls) == 9  # before, after and update of three modules


@pytest.mark.parametrize('entry, complaint', [
    (dict(kind='rotate'), "no kind 'rotate'.*known: none, values, vectors"),
    (dict(top=.2), 'no kind None'),
    (dict(kind='vectors', k=3), 'takes no k; known: top, .*polar, .*layers'),
    (dict(kind='none', top=.2), 'none takes no top; known: nothing'),
    (dict(kind='vectors', top=1.5), r'vectors top=1.5: .*fraction'),
    (dict(kind='vectors', top=.6, tail=.6), 'overlap'),
    (dict(kind='vectors', top=.2, top_count=2), 'give either top'),
    (dict(kind='vectors', top_count=9), 'out: top_count=9 of a .* 8'),
    (dict(kind='vectors', reference=True, polar=True), 'no polar correction'),
    (dict(kind='values', reference=True), 'takes no reference'),
    (dict(kind='revert', layer_numbers=(2, 9)), 'no range of .* 0 to 4'),
    (dict(kind='revert', layers=(0, 1), layer_numbers=(0, 1)), 'either layers'),
    (dict(kind='revert', layers=(.5, .2)), 'range of fractions'),
    (dict(kind='revert', layers=(.3, .4)), 'none of 4 layers'),
    (dict(kind='revert', modules=('gate',)), 'no module gate; known: out, que'),
    (dict(kind='revert', modules=()), 'no selected matrix'),
    (dict(kind='noise'), 'give one of amount'),
    (dict(kind='noise', amount=.1, distance=1), 'give one of amount'),
    (dict(kind='interpolate', amount=1.5), 'not between 0'),
    (dict(kind='interpolate', distance=99), 'not between 0'),
    (dict(kind='noise', amount=-1), 'not between 0'),
    (dict(kind=['none']), r"no kind \['none'\]"),
    (dict(kind='vectors', top='few'), "vectors, of {'top': 'few'}: "),
    (dict(kind='revert', layers=.5), 'revert, of .*iterable'),
    (dict(kind='noise', match=3), 'noise, of ')])
def test_a_bad_entry_is_named_before_the_first_edit(entry, complaint):
  sweep = [dict(kind='none'), entry]
  with pytest.raises(ValueError, match=complaint):
    restoration.edits(BEFORE, AFTER, sweep=sweep)
  if 'distance' not in entry:  # the same, before there are any weights
    with pytest.raises(ValueError, match=complaint):
      restoration.check(SHAPES, sweep=sweep)


def test_a_sound_sweep_needs_no_weights_to_be_let_through():
  restoration.check(SHAPES, sweep=SWEEP)
  restoration.check(SHAPES, sweep=[
      dict(kind='noise', distance=99.), dict(kind='revert', layers=(0, .5)),
      dict(kind='interpolate', match='revert layers=0:0.5')])
  with pytest.raises(ValueError, match='3 is no edit: write dict'):
    restoration.check(SHAPES, sweep=[3])
  with pytest.raises(ValueError, match='the sweep is empty'):
    restoration.check(SHAPES, sweep=[])


def test_equal_entries_and_equal_checkpoints_are_named():
  with pytest.raises(ValueError, match=r"'vectors top=0.2' twice"):
    run(dict(kind='vectors'), dict(kind='vectors', top=.2))
  with pytest.raises(ValueError, match='no way to go'):
    restoration.edits(BEFORE, BEFORE, sweep=[
        dict(kind='interpolate', distance=1.)])
  with pytest.raises(ValueError, match='different models'):
    restoration.edits(BEFORE, {'x': jnp.ones(2)}, sweep=[])
