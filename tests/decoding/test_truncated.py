"""Top-k and top-p by hand and against a slow reference."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.decoding import truncated

HALVES = np.array([1, 8, 1, 4, 2]) / 16  # probabilities, exact in binary


def kept(probabilities, **settings):
  """The tokens that stay, of one row."""
  logits = jnp.log(jnp.asarray(probabilities, jnp.float32))[None]
  row = truncated.rule(logits, **settings)[0]
  return np.flatnonzero(row > -np.inf).tolist()


@pytest.mark.parametrize('top_p, tokens', [
    (1e-6, [1]),  # at least one
    (0.4999, [1]),
    (0.5001, [1, 3]),  # the token that crosses it is kept
    (0.7499, [1, 3]),
    (0.7501, [1, 3, 4]),
    (0.9, [0, 1, 3, 4]),  # of the two with 1/16 the lower token
    (0.95, [0, 1, 2, 3, 4]),
    (1.0, [0, 1, 2, 3, 4]),
])
def test_top_p_by_hand(top_p, tokens):
  assert kept(HALVES, top_p=top_p) == tokens


@pytest.mark.parametrize('top_k, tokens', [
    (0, [0, 1, 2, 3, 4]), (1, [1]), (2, [1, 3]), (3, [1, 3, 4]),
    (4, [0, 1, 3, 4]), (5, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4])])
def test_top_k_by_hand(top_k, tokens):
  assert kept(HALVES, top_k=top_k) == tokens


@pytest.mark.parametrize('top_k, top_p, tokens', [
    (2, 0.66, [1]), (2, 0.67, [1, 3]),  # 2/3 and 1/3 of what is left
    (3, 0.8, [1, 3]),  # 6/7 of what is left; of all it would be 3/4
    (1, 0.99, [1]),
])
def test_top_p_is_of_what_top_k_left(top_k, top_p, tokens):
  assert kept(HALVES, top_k=top_k, top_p=top_p) == tokens


@pytest.mark.parametrize('settings', [
    dict(top_k=3), dict(top_p=0.45), dict(top_k=4, top_p=0.7)])
def test_of_equals_the_lower_tokens_stay(settings):
  assert kept([1 / 6] * 6, **settings) == [0, 1, 2]


def test_zero_is_zero_whatever_its_sign():
  logits = jnp.array([[-0.0, 0.0, -0.0, 0.0]])
  got = truncated.rule(logits, top_k=2)[0]
  assert (got > -jnp.inf).tolist() == [True, True, False, False]


def reference(row, top_k, top_p):
  """The kept tokens in float64, one at a time."""
  order = sorted(range(len(row)), key=lambda i: (-row[i], i))
  order = order[:top_k or None]
  mass = np.exp(np.float64(row[order]))
  mass /= mass.sum()
  chosen, total = [], 0.0
  for token, p in zip(order, mass, strict=True):
    if chosen and total >= top_p:
      break
    chosen.append(token)
    total += p
  return sorted(chosen)


@pytest.mark.parametrize('settings', [
    dict(top_k=7), dict(top_p=0.8), dict(top_p=0.31),
    dict(top_k=12, top_p=0.8), dict(top_k=30, top_p=0.55)], ids=str)
def test_against_a_slow_reference_with_ties(settings):
  """Logits in steps of a quarter, as bfloat16 makes them: most have ties."""
  rng = np.random.default_rng(0)
  logits = (rng.normal(size=(200, 50)) * 6).round() / 4
  got = jax.jit(lambda x: truncated.rule(x, **settings))(
      jnp.asarray(logits, jnp.float32))
  full = {'top_k': 0, 'top_p': 1.0, **settings}
  for row, keeps in zip(logits, np.asarray(got) > -np.inf, strict=True):
    assert np.flatnonzero(keeps).tolist() == reference(row, **full)


def sorts(settings, size=1000):
  text = jax.jit(lambda x: truncated.rule(x, **settings)).lower(
      jnp.zeros((2, size))).as_text()
  return f'tensor<2x{size}xi32>' in text.split('top_k', 1)[1].splitlines()[0]


def test_the_vocabulary_is_ranked_whole_only_without_top_k():
  assert sorts(dict(top_p=0.8))
  assert not sorts(dict(top_k=20, top_p=0.8))
