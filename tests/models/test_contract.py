"""What every model family promises: a new file is found here."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft import parts

V, T = 24, 7
PAD, BOS = 0, 1
NAMES = parts.names('models')
ROW = np.array([BOS, 5, 9, 7, 11, 6, 8], np.int32)  # no token twice


@functools.cache
def built(name):
  """(model, initialise, hidden states and cached states)."""
  family = parts.load('models', name)
  model = family.make(preset='tiny', vocabulary=V)
  fresh = functools.partial(family.initialise, model)
  hidden = jax.jit(lambda p, tokens: model.apply({'params': p}, tokens)[0])
  step = jax.jit(
      lambda p, tokens, cache: model.apply({'params': p}, tokens, cache))
  return model, fresh, hidden, step


@pytest.fixture(params=NAMES)
def family(request):
  model, fresh, hidden, step = built(request.param)
  return model, fresh(jax.random.key(0)), hidden, step


def padded(row, left, right=0):
  return np.pad(np.asarray(row, np.int32), (left, right))[None]


def test_a_hidden_state_depends_on_its_past_and_on_nothing_after(family):
  """Tokens are distinct, so a row of the embedding stands for a position."""
  _, params, hidden, _ = family
  weight = np.random.default_rng(0).normal(size=(T, 32)).astype(np.float32)

  def score(table, t):
    policy = {**params, 'embed': {'embedding': table}}
    return (hidden(policy, ROW[None])[0, t] * jnp.asarray(weight)[t]).sum()

  slope = jax.jit(jax.vmap(jax.grad(score), (None, 0)))(
      params['embed']['embedding'], jnp.arange(T))
  reach = np.abs(slope[:, ROW]).max(-1)  # (state, token)
  assert not reach[np.triu_indices(T, 1)].any()
  assert (reach[np.tril_indices(T)] > 1e-6).all()


@pytest.mark.parametrize('rows', [
    [[0, 0, 1, 5, 9, 7, 11, 6], [1, 4, 8, 10, 12, 13, 9, 9]],
    [[0, 1, 5, 0, 9, 7, 0, 6], [0, 0, 0, 1, 4, 8, 10, 12]],  # pads between
    [[0, 1, 5, 9, 7, 1, 11, 6], [1, 4, 1, 10, 12, 13, 9, 9]],  # new documents
], ids=['plain', 'pads', 'documents'])
def test_cached_equals_uncached(family, rows):
  model, params, hidden, step = family
  tokens = np.array(rows, np.int32)
  want = hidden(params, tokens)
  cache = model.apply({'params': params}, len(rows), 4, method='empty_cache')
  first, cache = step(params, tokens[:, :4], cache)
  cache, got = cache.grown(tokens.shape[1] - 4), [first]
  for t in range(4, tokens.shape[1]):
    one, cache = step(params, tokens[:, t:t + 1], cache)
    got.append(one)
  real = tokens != PAD
  np.testing.assert_allclose(
      np.concatenate(got, 1)[real], np.asarray(want)[real], atol=1e-5)


def test_unrolled_is_the_same_function_with_the_same_gradient(family):
  model, params, _, _ = family
  shape = np.random.default_rng(0).normal(size=(1, T, V)).astype(np.float32)

  def score(params, unroll):
    used, variables = model, {'params': params}
    if unroll:
      used, variables = model.unrolled(variables)
    hidden, _ = used.apply(variables, jnp.asarray(ROW[None]))
    return jnp.sum(used.apply(variables, hidden, method='head') * shape)

  (want, slope), (got, other) = (
      jax.jit(jax.value_and_grad(lambda p, u=u: score(p, u)))(params)
      for u in (False, True))
  np.testing.assert_allclose(got, want, rtol=1e-5)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(
          a, b, atol=1e-5 * np.abs(a).max()), slope, other)


@pytest.mark.parametrize('left, right', [(3, 0), (0, 3), (2, 1)])
def test_padding_changes_nothing(family, left, right):
  _, params, hidden, _ = family
  want = hidden(params, ROW[None])
  got = hidden(params, padded(ROW, left, right))[:, left:left + T]
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_documents_of_one_row_do_not_see_one_another(family):
  _, params, hidden, _ = family
  second = [BOS, 8, 5]
  packed = hidden(params, np.array([[*ROW, *second]], np.int32))
  np.testing.assert_allclose(
      packed[:, :T], hidden(params, ROW[None]), atol=1e-5)
  np.testing.assert_allclose(
      packed[:, T:], hidden(params, padded(second, 0, 7))[:, :3], atol=1e-5)


def test_a_row_of_pads_has_finite_states(family):
  _, params, hidden, _ = family
  assert np.isfinite(hidden(params, np.zeros((1, T), np.int32))).all()


def test_kernels_of_the_layers_are_stacked(family):
  model, params, _, _ = family
  for path, kernel in jax.tree.leaves_with_path(params['layers']):
    assert kernel.shape[0] == model.layers, path
    assert kernel.ndim == (3 if path[-1].key == 'kernel' else 2), path
    if path[-1].key == 'kernel':  # and layers are drawn apart
      assert not np.allclose(kernel[0], kernel[1]), path


def test_logits_are_float32_over_the_vocabulary(family):
  model, params, hidden, _ = family
  logits = jax.eval_shape(
      lambda p, h: model.apply({'params': p}, h, method='head'),
      params, hidden(params, ROW[None]))
  assert logits.shape == (1, T, V)
  assert logits.dtype == jnp.float32


@pytest.mark.parametrize('name', NAMES)
def test_the_key_decides_the_parameters(name):
  fresh = built(name)[1]
  first, again, other = (fresh(jax.random.key(k)) for k in (0, 0, 1))
  jax.tree.map(np.testing.assert_array_equal, again, first)
  assert not np.allclose(
      other['embed']['embedding'], first['embed']['embedding'])
