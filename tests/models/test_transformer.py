"""The transformer's own pieces, each beside a plain version of itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from ml_collections import ConfigDict

from rlft import binding, presets, tokenizer
from rlft.models import transformer
from rlft.ops import attention, rope

TOKENS = jnp.array([[0, 1, 7, 9, 4, 4], [1, 3, 8, 2, 6, 5]], jnp.int32)


def normal(*shape):
  drawn = np.random.default_rng(0).normal(size=shape)
  return jnp.asarray(drawn, jnp.float32)


def tiny(**changes):
  sizes = presets.SHAPES['tiny'] | {'vocabulary': 12} | changes
  return transformer.Model(**sizes)


def fresh(model):
  return transformer.initialise(model, jax.random.key(0))


def apply(model, params, tokens=TOKENS):
  return jax.jit(model.apply)({'params': params}, tokens)[0]


def test_grouped_queries_are_full_heads_with_repeated_keys_and_values():
  model = tiny()
  params = fresh(model)
  attention = params['layers']['attention']
  size = model.width // model.heads

  def repeat(kernel):
    heads = kernel.reshape(*kernel.shape[:2], model.kv_heads, size)
    wide = jnp.repeat(heads, model.heads // model.kv_heads, axis=2)
    return wide.reshape(*kernel.shape[:2], -1)

  full = {
      **attention, **{
          name: {'kernel': repeat(attention[name]['kernel'])}
          for name in ('key', 'value')}}
  repeated = {**params, 'layers': {**params['layers'], 'attention': full}}
  np.testing.assert_allclose(
      apply(tiny(kv_heads=model.heads), repeated), apply(model, params),
      atol=1e-5)


def test_attend_equals_the_attention_of_jax():
  query, (key, value) = normal(2, 5, 6, 8), normal(2, 2, 7, 3, 8)
  mask = np.random.default_rng(1).random((2, 5, 7)) < 0.6
  mask[:, :, 0] = True
  want = jax.jit(jax.nn.dot_product_attention)(
      query, key, value, mask=mask[:, None])
  got = jax.jit(attention.attend)(
      query, key.transpose(0, 2, 3, 1), value.swapaxes(1, 2), mask)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_query_without_any_key_gives_no_nan():
  x = jnp.ones((1, 2, 2, 4))
  mixed = jax.jit(attention.attend)(x, x.mT, x, np.zeros((1, 2, 2), bool))
  assert np.isfinite(mixed).all()


ROTATE = jax.jit(rope.rotate, static_argnums=2)


def score(query, key, at, to):
  """The attention score of a query at a position for a key at another."""
  place = lambda p: np.full((1, 1), p, np.int32)
  rotate = lambda x, p: np.asarray(ROTATE(x, place(p), rope.Rope(100.0)))
  return (rotate(query, at) * rotate(key, to)).sum()


def test_rope_scores_depend_on_the_distance_alone():
  query, key = normal(2, 1, 1, 1, 8)
  near = score(query, key, 4, 1)
  assert score(query, key, 3, 0) == pytest.approx(near, abs=1e-5)
  assert score(query, key, 104, 101) == pytest.approx(near, abs=1e-4)
  assert abs(score(query, key, 4, 2) - near) > 1e-2
  assert abs(score(query, key, 1, 4) - near) > 1e-2  # it has a direction


def test_rope_turns_halves_by_hand():
  """Size 4, base 100: pairs (0, 2) and (1, 3) turn by p and p / 10."""
  x = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
  got = ROTATE(x, np.full((1, 1), 2, np.int32), rope.Rope(100.0)).ravel()
  pairs = np.array([1 + 3j, 2 + 4j]) * np.exp(1j * np.array([2.0, 0.2]))
  np.testing.assert_allclose(
      got, [*pairs.real, *pairs.imag], atol=1e-5)


def test_positions_and_attention_of_two_documents():
  layout = attention.lay_out(jnp.array([[0, 1, 5, 0, 6, 1, 7]]), 0, 1)
  assert layout.positions.tolist() == [[0, 0, 1, 1, 2, 0, 1]]
  reach = [np.flatnonzero(row).tolist() for row in np.asarray(layout.attend[0])]
  assert reach == [[], [1], [1, 2], [1, 2], [1, 2, 4], [5], [5, 6]]


def test_without_a_begin_token_padding_parts_documents():
  layout = attention.lay_out(jnp.array([[0, 1, 5, 1, 0, 0, 1, 6]]), 0, None)
  positions = layout.positions[0]
  assert positions[np.array([1, 2, 3, 6, 7])].tolist() == [0, 1, 2, 0, 1]
  reach = [np.flatnonzero(row).tolist() for row in np.asarray(layout.attend[0])]
  assert reach[:4] == [[], [1], [1, 2], [1, 2, 3]]
  assert reach[6:] == [[6], [6, 7]]


@pytest.mark.parametrize('cut', [1, 3, 4, 5])
def test_without_a_begin_token_a_cache_parts_the_same_documents(cut):
  tokens = jnp.array([[0, 1, 5, 0, 7, 8], [3, 0, 0, 4, 0, 9]])
  want = attention.lay_out(tokens, 0, None)
  seen = jnp.full(tokens.shape, -1)
  for start, stop in ((0, cut), (cut, 6)):
    got, seen = attention.extend(
        seen, jnp.array(start), tokens[:, start:stop], 0, None)
    real = np.asarray(tokens != 0)[:, start:stop]
    for one, other in zip(got, want, strict=True):
      np.testing.assert_array_equal(
          np.asarray(one)[real], np.asarray(other)[:, start:stop][real])


@pytest.mark.parametrize('sizes', [
    dict(width=34), dict(kv_heads=3), dict(heads=3, kv_heads=3)])
def test_widths_that_do_not_divide_are_refused(sizes):
  with pytest.raises(ValueError, match='multiple of heads'):
    jax.eval_shape(
        lambda k: transformer.initialise(tiny(**sizes), k), jax.random.key(0))


def test_an_odd_head_cannot_be_rotated():
  with pytest.raises(ValueError, match='even'):
    jax.eval_shape(
        lambda k: transformer.initialise(tiny(width=36, heads=12), k),
        jax.random.key(0))


def test_an_unknown_preset_lists_the_known():
  with pytest.raises(ValueError, match=r"no preset 'huge'; known: tiny, nano"):
    transformer.make(preset='huge', vocabulary=9)


def test_an_unknown_dtype_is_refused():
  with pytest.raises(ValueError, match=r'float64.*float32, bfloat16'):
    transformer.make(preset='tiny', vocabulary=9, dtype='float64')


def test_the_tokenizers_own_pad_and_begin_decide_the_layout(tmp_path):
  """A tokenizer that numbers its special tokens otherwise."""
  built = tokenizers.Tokenizer(tokenizers.models.WordLevel(
      {'a': 0, 'b': 1, '</s>': 2, '<unk>': 3, '<s>': 4, '<pad>': 5},
      unk_token='<unk>'))
  built.save(str(tmp_path / 'tokenizer.json'))
  words = tokenizer.load(str(tmp_path / 'tokenizer.json'))
  section = ConfigDict(dict(name='transformer', preset='tiny'))
  _, model = binding.build_model(section, words)
  assert (model.pad_id, model.bos_id) == (5, 4)
  params = transformer.initialise(model, jax.random.key(0))
  hidden = lambda *row: apply(model, params, jnp.array([row]))[0]
  alone = hidden(4, 0, 1)
  np.testing.assert_allclose(hidden(5, 4, 0, 1)[1:], alone, atol=1e-5)
  np.testing.assert_allclose(hidden(4, 1, 4, 0, 1)[2:], alone, atol=1e-5)
  assert abs(hidden(0, 4, 1)[2] - hidden(4, 4, 1)[2]).max() < 1e-5
  section.bos = 1
  with pytest.raises(ValueError, match=r'config\.model\.bos follows from'):
    binding.build_model(section, words)


def test_bfloat16_computes_near_float32_from_float32_parameters():
  exact, coarse = tiny(), tiny(dtype=jnp.bfloat16)
  params = fresh(coarse)
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('float32')}
  hidden = apply(coarse, params)
  assert hidden.dtype == jnp.bfloat16
  gap = np.abs(np.asarray(hidden, np.float32) - apply(exact, params))
  assert 0 < gap.max() < 0.2
  logits = jax.eval_shape(
      lambda h: coarse.apply({'params': params}, h, method='head'), hidden)
  assert logits.dtype == jnp.float32
