"""Names, edits and fingerprints of parameter trees."""
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlft.ops import trees


def policy(seed=0):
  rng = np.random.default_rng(seed)
  random = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  kernel = lambda *shape: {'kernel': random(*shape)}
  return {
      'embed': {'embedding': random(7, 4)},
      'layers': {
          'attention': {
              'query': kernel(2, 4, 4), 'key': kernel(2, 4, 2),
              'value': kernel(2, 4, 2), 'out': kernel(2, 4, 4)},
          'mlp': {'gate': kernel(2, 4, 6), 'up': kernel(2, 4, 6),
                  'down': kernel(2, 6, 4)},
          'attention_norm': {'scale': random(2, 4)}},
      'final_norm': {'scale': random(4)},
      'head': kernel(4, 7),
  }


def test_blocks_are_selected_by_default():
  found = trees.matrices(policy())
  assert {p: x.shape for p, x in found.items()} == {
      'layers/attention/query/kernel': (2, 4, 4),
      'layers/attention/key/kernel': (2, 4, 2),
      'layers/attention/value/kernel': (2, 4, 2),
      'layers/attention/out/kernel': (2, 4, 4),
      'layers/mlp/gate/kernel': (2, 4, 6),
      'layers/mlp/up/kernel': (2, 4, 6),
      'layers/mlp/down/kernel': (2, 6, 4)}


def test_embedding_and_head_only_when_asked():
  found = trees.matrices(policy(), 'embed|head')
  assert list(found) == ['embed/embedding', 'head/kernel']


@pytest.mark.parametrize('select, complaint', [
    ('attention/qurey', 'known: .*layers/attention/query/kernel'),
    ('attention_norm', r'attention_norm/scale of shape \(2, 4\) is not'),
    ('final_norm', 'is not a matrix'),
    ('(', 'no regex'),
])
def test_a_bad_selection_is_named(select, complaint):
  with pytest.raises(ValueError, match=complaint):
    trees.matrices(policy(), select)


def test_short_names_stay_apart():
  assert trees.modules(['layers/attention/query/kernel', 'head/kernel', 'w']
                       ) == {'layers/attention/query/kernel': 'query',
                             'head/kernel': 'head', 'w': 'w'}
  both = ['encoder/query/kernel', 'decoder/query/kernel']
  assert trees.modules(both) == {p: p for p in both}


def test_replace_changes_the_named_leaves_only():
  params = policy()
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  new = trees.replace(half, {'head/kernel': jnp.ones((4, 7))})
  assert new['head']['kernel'].dtype == jnp.bfloat16
  assert (new['head']['kernel'] == 1).all()
  new['head']['kernel'] = half['head']['kernel']
  assert trees.fingerprint(new) == trees.fingerprint(half)


@pytest.mark.parametrize('path, shape', [
    ('head/bias', (4, 7)), ('head/kernel', (7, 4))])
def test_replace_refuses_what_does_not_fit(path, shape):
  with pytest.raises(ValueError, match=path):
    trees.replace(policy(), {path: jnp.ones(shape)})


def test_distance_norm_and_count_by_hand():
  a = {'x': jnp.array([3., 0.]), 'y': jnp.zeros((1, 2))}
  b = {'x': jnp.zeros(2), 'y': jnp.array([[0., 4.]])}
  assert float(trees.distance(a, b)) == 5
  assert float(trees.norm(a)) == 3
  assert trees.count(a) == 4


def test_distance_of_half_precision_is_not_half_precise():
  # 1 - 2^-10 and (1 + 2^-7)^2 need more bits than bfloat16 has.
  half = lambda x: {'x': jnp.full(16, x, jnp.bfloat16)}
  found = trees.distance(half(1), half(2**-10))
  np.testing.assert_allclose(found, 4 * (1 - 2**-10), rtol=1e-6)
  found = trees.norm(half(1 + 2**-7))
  np.testing.assert_allclose(found, 4 * (1 + 2**-7), rtol=1e-6)


def test_different_models_are_refused():
  other = policy()
  other['head']['kernel'] = jnp.ones((4, 8))
  with pytest.raises(ValueError, match='head/kernel'):
    trees.distance(policy(), other)
  del other['head']
  with pytest.raises(ValueError, match=r'head/kernel is .* absent'):
    trees.distance(policy(), other)


def bits(x):
  return jax.lax.bitcast_convert_type(x, jnp.uint32)


@given(entry=st.integers(0, 11), bit=st.integers(0, 31))
def test_every_flipped_bit_changes_the_fingerprint(entry, bit):
  x = jax.random.normal(jax.random.key(1), (12,))
  flipped = jax.lax.bitcast_convert_type(
      bits(x).at[entry].set(bits(x)[entry] ^ np.uint32(1 << bit)), jnp.float32)
  assert fingerprint(x) != fingerprint(flipped)


def fingerprint(leaf):
  return trees.fingerprint({'x': leaf})


def test_moves_and_renames_change_the_fingerprint():
  x = jax.random.normal(jax.random.key(0), (6, 4))
  seen = [
      trees.fingerprint(tree) for tree in (
          {'x': x}, {'y': x}, {'x': x[::-1]}, {'x': x[:, ::-1]},
          {'x': x.at[jnp.array([1, 4])].set(x[jnp.array([4, 1])])},
          {'x': x.reshape(4, 6)}, {'x': x.T},
          {'x': x.at[0, 0].set(0.)}, {'x': x.at[0, 0].set(-0.)},
          {'x': x.astype(jnp.bfloat16)}, {'x': x, 'y': x}, {'x': {'x': x}})]
  assert len(set(seen)) == len(seen)
  assert all(len(f) == 32 and int(f, 16) >= 0 for f in seen)


def test_equal_sums_of_words_do_not_collide():
  # Rows that differ by opposite amounts cancel in an unweighted sum.
  x = jnp.arange(8, dtype=jnp.int32).reshape(2, 4)
  y = x.at[0].add(1).at[1].add(-1)
  assert fingerprint(x) != fingerprint(y)


def test_fingerprint_of_every_kind_of_leaf():
  for leaf in (np.float64(1), np.array([1, 2**40]), jax.random.key(3), 7,
               np.array([True, False]), jnp.int8(3), jnp.ones((0, 3)),
               jnp.ones(3, jnp.float16)):
    assert len(fingerprint(leaf)) == 32
  assert fingerprint(np.array([2**40])) != fingerprint(np.array([2**41]))
  assert fingerprint(np.float64(1)) != fingerprint(np.nextafter(1., 2.))
  assert fingerprint(jax.random.key(3)) != fingerprint(jax.random.key(4))
  assert fingerprint(np.array([True])) != fingerprint(np.array([False]))
  with pytest.raises(ValueError, match='complex'):
    fingerprint(jnp.ones(2, jnp.complex64))


def test_fingerprint_does_not_depend_on_where_the_array_lies():
  x = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
  mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ('a', 'b'))
  layouts = [(), ('a',), (None, 'b'), ('a', 'b'), (('a', 'b'),), ('b', 'a')]
  seen = {fingerprint(x), fingerprint(jnp.asarray(x))} | {
      fingerprint(jax.device_put(x, jax.sharding.NamedSharding(
          mesh, jax.sharding.PartitionSpec(*layout)))) for layout in layouts}
  assert len(seen) == 1


def test_fingerprint_leaves_the_array_where_it_lies():
  """Devices exchange their partial sums, nothing of the array."""
  mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ('a', 'b'))
  x = jax.device_put(jnp.ones((64, 128)), jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec('a', 'b')))
  text = trees._sums.lower(x).compile().as_text()
  moved = re.findall(r'= u32\[([\d,]+)\]\S* all-', text)
  assert moved and all(
      np.prod([int(n) for n in shape.split(',')]) <= 8 for shape in moved)


def test_fingerprint_is_the_documented_sum():
  # Worked out with Python integers, independently of JAX's arithmetic.
  def mix(x):
    x = (x ^ x >> 16) * 0x85ebca6b % 2**32
    x = (x ^ x >> 13) * 0xc2b2ae35 % 2**32
    return x ^ x >> 16

  words = [5, 2**32 - 1, 0, 77]
  first = sum(w * (mix(i) | 1) for i, w in enumerate(words)) % 2**32
  second = sum(mix(w ^ mix((i + 0x9e3779b9) % 2**32))
               for i, w in enumerate(words)) % 2**32
  leaf = np.array(words, np.uint32).reshape(2, 2)
  assert trees.fingerprints({'x': leaf}) == {
      'x': f'uint32 [2, 2] {first:08x}{second:08x}'}
