"""The rotation table: constructed rotations, chance, and zero updates."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.analyses import rotation
from rlft.ops import trees
from rlft.spectral import storage, svd

L, D, F = 8, 20, 30
MODULES = ['query', 'down']
NUMBERS = {
    'angle_top_rad': ('angle', '_rad'),
    'procrustes_rad': ('procrustes', '_rad'),
    **{name: (name, '') for name in (
        'projector_distance', 'cosine', 'alignment', 'value_shift', 'nss',
        'energy_diagonal', 'energy_rotated', 'energy_outside',
        'energy_principal', 'stable_rank', 'update_sparsity',
        'update_on_principal', 'update_on_principal_bf16')}}
FIELDS = {
    'layer', 'module', 'update_norm', 'update_norm_floor',
    'exceeds_update_norm', 'weight_norm', 'angle_random_rad',
    'floor_mantissa_bits', 'looks_untrained', *NUMBERS,
    *(f'{stem}_{what}{unit}' for stem, unit in NUMBERS.values()
      for what in ('null', 'null_low', 'null_high', 'floor')),
    *(f'exceeds_{stem}' for stem, _ in NUMBERS.values())}


def tree(query, down):
  return {'layers': {'attention': {'query': {'kernel': query}},
                     'mlp': {'down': {'kernel': down}}},
          'final_norm': {'scale': jnp.ones(D)}}


def weights(seed=0):
  """Random directions, evenly spaced values: no gap that chance could close."""
  rng = np.random.default_rng(seed)

  def spaced(m, n):
    u, _, vt = np.linalg.svd(rng.normal(size=(L, m, n)), full_matrices=False)
    return jnp.asarray(u * np.linspace(8, 1, D) @ vt, jnp.float32)

  return tree(spaced(D, D), spaced(F, D))


def updated(params, change, size):
  return jax.tree.map(lambda w, d: w + size * d, params, change)


def analyse(before, after, **kw):
  return rotation.analyse({'a': before, 'b': after}, before='a', after='b',
                          **kw)


def column(found, name, module):
  return [r[name] for r in found['rows'] if r['module'] == module]


def test_rows_and_curves_have_the_promised_shape():
  found = analyse(weights(0), updated(weights(0), weights(1), .1), draws=4)
  assert [(r['layer'], r['module']) for r in found['rows']] == [
      (layer, m) for layer in range(L) for m in MODULES]
  assert all(set(r) == FIELDS for r in found['rows'])
  curves = found.pop('curves')
  json.dumps(found, allow_nan=False)
  assert {k: found[k] for k in ('before', 'after', 'seed', 'draws')} == dict(
      before='a', after='b', seed=0, draws=4)
  for module in MODULES:
    for name, size in (
        ('angles', 4), ('angles_null', 4), ('cosine', D), ('cosine_null', D),
        ('value_shift', D), ('value_shift_null', D), ('values_before', D),
        ('values_after', D), ('angle_by_top', 4), ('angle_by_top_null', 4)):
      assert curves[f'{module}/{name}'].shape == (L, size), name
      assert np.isfinite(curves[f'{module}/{name}']).all()


@pytest.mark.parametrize('side', ['input', 'output'])
def test_a_known_rotation_of_one_side_is_read_off(side):
  # Turn the leading direction of layer 1 by 0.3 towards the fifth.
  rng = np.random.default_rng(0)
  u, v = (np.linalg.qr(rng.normal(size=(D, D)))[0] for _ in range(2))
  s = np.linspace(10, 1, D)
  turn = np.eye(D)
  turn[np.ix_([0, 4], [0, 4])] = [
      [np.cos(.3), -np.sin(.3)], [np.sin(.3), np.cos(.3)]]
  still, moved = u * s @ v.T, (u @ turn) * s @ v.T
  if side == 'output':
    still, moved = still.T, moved.T
  down = weights()['layers']['mlp']['down']['kernel']
  before = tree(jnp.asarray(np.stack([still] * L), jnp.float32), down)
  after = tree(jnp.asarray(np.stack([still, moved] + [still] * (L - 2)),
                           jnp.float32), down)
  found = analyse(before, after, select='query')
  angles = found['curves']['query/angles']
  np.testing.assert_allclose(angles[1], [0, 0, 0, .3], atol=2e-6)
  np.testing.assert_allclose(angles[0], 0, atol=2e-6)
  row = [r for r in found['rows'] if r['module'] == 'query'][1]
  np.testing.assert_allclose(row['angle_top_rad'], .3 / 4, atol=1e-6)
  assert row['value_shift'] < 1e-5
  cosine = found['curves']['query/cosine'][1]
  np.testing.assert_allclose(cosine[[0, 4]], np.cos(.3), atol=1e-5)
  np.testing.assert_allclose(np.delete(cosine, [0, 4]), 1, atol=1e-5)
  # Energies by hand: C = (turn - 1) diag(s).
  c = (turn - np.eye(D)) * s
  np.testing.assert_allclose(
      row['energy_diagonal'], np.square(np.diag(c)).sum() / np.square(c).sum(),
      atol=1e-5)
  np.testing.assert_allclose(row['update_norm'], np.linalg.norm(c), rtol=1e-5)
  values = np.linalg.svd(c, compute_uv=False)
  np.testing.assert_allclose(
      row['stable_rank'], np.square(values).sum() / values[0]**2, rtol=1e-5)
  np.testing.assert_allclose(row['weight_norm'], np.linalg.norm(s), rtol=1e-5)


def test_values_and_energies_by_hand_in_the_old_basis():
  # The change couples directions 0 and 9 of five each way, in known amounts.
  rng = np.random.default_rng(0)
  u, v = (np.linalg.qr(rng.normal(size=(D, D)))[0] for _ in range(2))
  s = np.linspace(10, 1, D)
  change = np.zeros((D, D))
  change[0, 0], change[9, 9], change[0, 9], change[9, 0] = 2, 1, .5, -3
  down = weights()['layers']['mlp']['down']['kernel']
  before, after = (
      tree(jnp.asarray(np.stack([u @ x @ v.T] * L), jnp.float32), down)
      for x in (np.diag(s), np.diag(s) + change))
  found = analyse(before, after, select='query')
  row = next(r for r in found['rows'] if r['module'] == 'query')
  np.testing.assert_allclose(row['energy_diagonal'], 5 / 14.25, atol=1e-5)
  np.testing.assert_allclose(row['energy_rotated'], 9.25 / 14.25, atol=1e-5)
  new = np.linalg.svd(np.diag(s) + change, compute_uv=False)
  shift = np.abs(new - s) / s
  np.testing.assert_allclose(row['value_shift'], shift[:4].mean(), atol=1e-5)
  assert abs(shift[:4].mean() - shift[4:].mean()) > .01
  curves = found['curves']
  np.testing.assert_allclose(
      curves['query/value_shift'][0], shift, atol=1e-5)
  np.testing.assert_allclose(curves['query/values_before'][0], s, rtol=1e-5)
  np.testing.assert_allclose(curves['query/values_after'][0], new, rtol=1e-5)


@pytest.mark.parametrize('size', [.02, .3])
def test_a_random_update_is_no_finding(size):
  found = analyse(weights(0), updated(weights(0), weights(7), size))
  for module in MODULES:
    mean = lambda name, module=module: np.mean(column(found, name, module))
    # Over other seeds these ratios lie within 0.8 to 1.2 and 0.6 to 1.4.
    np.testing.assert_allclose(
        mean('angle_top_rad'), mean('angle_null_rad'), rtol=.3)
    np.testing.assert_allclose(
        mean('value_shift'), mean('value_shift_null'), rtol=.6)
    curves = {k.removeprefix(f'{module}/'): v.mean(0)
              for k, v in found['curves'].items() if k.startswith(module)}
    np.testing.assert_allclose(
        curves['angle_by_top'][1:], curves['angle_by_top_null'][1:], rtol=.3)
    np.testing.assert_allclose(
        curves['cosine'], curves['cosine_null'], atol=.4)
    np.testing.assert_allclose(
        mean('energy_diagonal'), mean('energy_diagonal_null'), atol=.02)
    for low, middle, high in zip(*(column(found, f'angle_null{x}_rad', module)
                                   for x in ('_low', '', '_high')),
                                 strict=True):
      assert low < middle < high
    inside = np.mean([r['angle_null_low_rad'] < r['angle_top_rad']
                      < r['angle_null_high_rad'] for r in found['rows']])
    assert .2 < inside < .95  # three in five by chance


def test_a_turn_of_the_leading_directions_beats_its_null():
  # All of the update turns the input side; only a sixth of a random one does.
  rng = np.random.default_rng(0)
  u, v = (np.linalg.qr(rng.normal(size=(L, D, D)))[0] for _ in range(2))
  s = np.r_[np.linspace(10, 8, 4), np.linspace(1, .5, D - 4)]
  turn = np.eye(D)
  turn[:4, :4] *= np.cos(.2)
  turn[4:8, :4] = np.sin(.2) * np.eye(4)
  down = weights()['layers']['mlp']['down']['kernel']
  before, after = (
      tree(jnp.asarray(x * s @ v.swapaxes(1, 2), jnp.float32), down)
      for x in (u, u @ turn))
  for row in analyse(before, after, select='query')['rows']:
    np.testing.assert_allclose(row['angle_top_rad'], .2, atol=.02)
    assert row['angle_top_rad'] > 1.5 * row['angle_null_high_rad']
    np.testing.assert_allclose(row['stable_rank'], 4, rtol=.2)
    assert row['energy_rotated'] > .98


def test_random_updates_exceed_as_often_as_chance_has_it():
  rng = np.random.default_rng(5)
  change = jax.tree.map(lambda w: jnp.asarray(
      rng.normal(size=w.shape), jnp.float32), weights(0))
  found = analyse(weights(0), updated(weights(0), change, .1))
  for stem, _ in NUMBERS.values():
    rate = np.mean([r[f'exceeds_{stem}'] for r in found['rows']])
    # One in five of 16; more than nine has a probability of 2e-4.
    assert rate < .6, stem


def test_exceeding_is_beyond_every_draw_and_the_floor():
  before, after = weights(0), updated(weights(0), weights(1), .1)
  # The other pair's update is this one itself: nothing is beyond it.
  found = analyse(before, after, null_after='b', select='down')
  plain = analyse(before, after, select='down')
  for row, alone in zip(found['rows'], plain['rows'], strict=True):
    assert set(row) - set(alone) == {
        f'{stem}_cross{unit}' for stem, unit in NUMBERS.values()}
    for name, (stem, unit) in NUMBERS.items():
      rivals = [alone[f'{stem}_{x}{unit}']
                for x in ('null_low', 'null_high', 'floor')
                if alone[f'{stem}_{x}{unit}'] is not None]
      beyond = (row[name] < min(rivals) if stem in ('cosine', 'alignment')
                else row[name] > max(rivals))
      assert alone[f'exceeds_{stem}'] == beyond, name
      # Factored anew, so equal but for rounding.
      np.testing.assert_allclose(
          row[f'{stem}_cross{unit}'], row[name], rtol=2e-3, atol=1e-5)
  assert any(r['exceeds_value_shift'] or r['exceeds_angle']
             for r in plain['rows'])


def test_an_update_below_the_rounding_of_its_storage_exceeds_nothing():
  # Half of the last bits of bfloat16 weights flip: nothing can be told.
  rng = np.random.default_rng(0)
  low = lambda w: w.astype(jnp.bfloat16).astype(jnp.float32)
  before = jax.tree.map(low, weights(0))
  flip = jax.tree.map(lambda w: low(w * (1 + 2.**-8 * (
      rng.random(w.shape) < .3))), before)
  found = analyse(before, flip, select='down')
  for row in found['rows']:
    assert row['floor_mantissa_bits'] == 7
    assert .5 < row['update_sparsity'] < .95
    assert row['angle_top_rad'] < 3 * row['angle_floor_rad']
  exact = analyse(weights(0), updated(weights(0), weights(1), 1e-3),
                  select='down')
  for row, rounded in zip(exact['rows'], found['rows'], strict=True):
    assert row['floor_mantissa_bits'] == 23
    assert row['angle_floor_rad'] < 1e-3 * rounded['angle_floor_rad'] + 2e-6


def test_the_floor_can_be_that_of_a_format_by_name():
  before = weights(0)
  found = analyse(before, updated(before, weights(1), .1), floor='bfloat16',
                  select='down')
  for row in found['rows']:
    path = next(p for p in trees.matrices(before) if row['module'] in p)
    w = np.asarray(trees.matrices(before)[path][row['layer']])
    rounded = np.asarray(jnp.asarray(w, jnp.bfloat16), np.float32)
    np.testing.assert_allclose(
        row['update_norm_floor'], np.linalg.norm(rounded - w), rtol=1e-4)
    assert row['floor_mantissa_bits'] == 7
  with pytest.raises(ValueError, match="no floor 'int8'; known: bfloat16"):
    analyse(before, before, floor='int8')



def test_bfloat16_weights_are_float32_weights_of_the_same_values():
  before, after = weights(0), updated(weights(0), weights(1), .1)
  short = [jax.tree.map(lambda w: w.astype(jnp.bfloat16), x)
           for x in (before, after)]
  long = [jax.tree.map(lambda w: w.astype(jnp.float32), x) for x in short]
  one, two = (analyse(*pair, select='down') for pair in (short, long))
  assert one['rows'] == two['rows']
  for name, curve in one['curves'].items():
    np.testing.assert_array_equal(curve, two['curves'][name])


def test_what_is_analysed_must_be_what_the_file_holds():
  before, after = weights(0), weights(1)
  stored = {'a': trees.fingerprints(before), 'b': trees.fingerprints(after)}
  found = analyse(before, after, stored=stored)
  path = 'layers/mlp/down/kernel'
  assert found['tensors'][path] == [stored['a'][path], stored['b'][path]]
  with pytest.raises(ValueError, match=r'b: .* is not what the file holds'):
    analyse(before, updated(after, after, 1e-7), stored=stored)
  renamed = {k.replace('layers', 'model.layers'): v
             for k, v in stored['b'].items()}
  with pytest.raises(ValueError, match='no such tensor'):
    analyse(before, after, stored={'b': renamed})


def test_a_checkpoint_of_fresh_matrices_is_warned_of():
  rng = np.random.default_rng(0)
  fresh, other = ({'head': {'kernel': jnp.asarray(
      rng.normal(size=(36, 36)) * .02, jnp.float32)}} for _ in range(2))
  found = analyse(fresh, other, select='head')
  assert found['rows'][0]['looks_untrained']
  assert 'independent random entries' in found['warnings'][0]
  trained = jax.tree.map(lambda w: w + .1, other)
  found = analyse(fresh, trained, select='head')
  assert not found['rows'][0]['looks_untrained'] and not found['warnings']


def test_the_published_angle_is_blind_to_small_turns():
  before = weights(0)
  rows = analyse(before, updated(before, weights(1), 1e-6), select='down',
                 reference=True)['rows']
  for row in rows:
    assert row['angle_top_rad'] < 2e-5 < row['angle_published_rad']
  rows = analyse(before, updated(before, weights(1), .3), select='down',
                 reference=True)['rows']
  for row in rows:
    np.testing.assert_allclose(
        row['angle_top_rad'], row['angle_published_rad'], atol=2e-3)


def test_numbers_without_a_value_are_null():
  row = analyse(weights(), weights())['rows'][0]
  assert row['update_on_principal'] is None
  assert row['update_sparsity'] == 1
  assert not any(row[k] for k in row if k.startswith('exceeds'))


@pytest.mark.slow
def test_decompositions_are_one_per_draw_and_one_for_the_floor(monkeypatch):
  before, after = weights(0), updated(weights(0), weights(1), .1)
  # What a comparison factors inside is traced by now, and not counted.
  analyse(before, after, draws=3, null_after='b')
  made = []
  real = svd.decompose

  def counted(w, *a, **k):
    jax.debug.callback(lambda: made.append(w.shape))
    return real(w, *a, **k)

  monkeypatch.setattr(svd, 'decompose', counted)
  # A number of draws that no other test takes: it is traced here.
  analyse(before, after, draws=7, null_after='b')
  jax.effects_barrier()
  # Two checkpoints, seven draws, the floor and the other pair.
  assert sorted(made) == sorted([(L, D, D), (L, F, D)] * 11)


def test_rounding_to_bfloat16_is_the_floor():
  before = weights()
  found = analyse(before, jax.tree.map(
      lambda w: storage.rounded(w, 7) if w.ndim > 1 else w, before))
  for row in found['rows']:
    np.testing.assert_allclose(
        row['angle_top_rad'], row['angle_floor_rad'], rtol=1e-3)
    np.testing.assert_allclose(
        row['value_shift'], row['value_shift_floor'], rtol=.05)


def test_no_update_is_no_rotation():
  found = analyse(weights(), weights())
  json.dumps(list(found['rows']), allow_nan=False)
  for row in found['rows']:
    for name in ('angle_top_rad', 'value_shift', 'update_norm',
                 'energy_rotated', 'stable_rank'):
      assert row[name] < 1e-6, name


def test_the_table_ignores_a_turn_of_the_coordinates():
  # Rotating inputs and outputs of both checkpoints changes no finding.
  before, after = weights(0), updated(weights(0), weights(1), .1)
  rng = np.random.default_rng(3)
  p, q = (jnp.asarray(np.linalg.qr(rng.normal(size=(D, D)))[0], jnp.float32)
          for _ in range(2))
  spin = lambda t: tree(p @ t['layers']['attention']['query']['kernel'] @ q,
                        t['layers']['mlp']['down']['kernel'] @ q)
  one, two = analyse(before, after), analyse(spin(before), spin(after))
  for a, b in zip(one['rows'], two['rows'], strict=True):
    for name in ('angle_top_rad', 'value_shift', 'energy_diagonal',
                 'update_norm', 'stable_rank'):
      np.testing.assert_allclose(a[name], b[name], rtol=1e-2, atol=1e-5)


def test_the_seed_moves_the_null_and_nothing_else():
  pair = weights(0), updated(weights(0), weights(1), .1)
  one, same, other = (analyse(*pair, seed=s) for s in (0, 0, 1))
  assert one['rows'] == same['rows']
  for a, b in zip(one['rows'], other['rows'], strict=True):
    changed = {k for k in a if a[k] != b[k]}
    null = {k for k in FIELDS if '_null' in k}
    assert {k for k in null if 'angle' in k or 'shift' in k} <= changed
    assert changed <= null | {k for k in FIELDS if k.startswith('exceeds')}


def test_selected_single_matrices_count_as_one_layer():
  before = {'head': {'kernel': jnp.asarray(
      np.diag(np.linspace(8, 1, 36))[:, ::-1].copy(), jnp.float32)}}
  after = jax.tree.map(lambda w: w * 1.5, before)
  found = analyse(before, after, select='head')
  row, = found['rows']
  assert (row['layer'], row['module']) == (0, 'head')
  np.testing.assert_allclose(row['value_shift'], .5, rtol=1e-5)
  np.testing.assert_allclose(row['energy_diagonal'], 1, rtol=1e-5)
  assert row['angle_top_rad'] < 1e-5


@pytest.mark.parametrize('kw, complaint', [
    (dict(after='c'), "no checkpoint 'c'; known: a, b"),
    (dict(draws=0), 'draws=0'), (dict(top=0), 'top=0'),
    (dict(select='nothing'), 'no parameter matches'),
    (dict(null_after='d'), "no checkpoint 'd'")])
def test_bad_requests_are_named(kw, complaint):
  checkpoints = {'a': weights(), 'b': weights(1)}
  with pytest.raises(ValueError, match=complaint):
    rotation.analyse(checkpoints, **{'before': 'a', 'after': 'b', **kw})


def test_broken_checkpoints_are_named():
  good, bad = weights(), weights()
  down = bad['layers']['mlp']['down']
  down['kernel'] = down['kernel'].at[1, 0, 0].set(jnp.nan)
  with pytest.raises(ValueError, match=r'checkpoint b: .*down/kernel, layer 1'):
    analyse(good, bad)
  with pytest.raises(ValueError, match='different models'):
    analyse(good, {'head': {'kernel': jnp.ones((3, 3))}})
