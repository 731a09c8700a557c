"""Scores through the head in chunks, beside the whole table of logits."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from rlft.ops import log_probs

B, T, V, D = 3, 6, 11, 4
RNG = np.random.default_rng(0)


def normal(*shape):
  return jnp.asarray(RNG.normal(size=shape), jnp.float32)


HIDDEN, KERNEL = normal(B, T, D), normal(D, V)
OTHER_HIDDEN, OTHER_KERNEL = normal(B, T, D), normal(D, V)
TOKENS = jnp.asarray(RNG.integers(0, V, (B, T)), jnp.int32)


def score(hidden, kernel, *, elements=10**6, temperature=1.0):
  return log_probs.of_tokens(
      lambda h: h @ kernel, hidden, TOKENS, elements=elements,
      temperature=temperature)


def table(temperature=1.0):
  """(B, T, V) log-probs of the state after each token, in float64."""
  logits = np.asarray(HIDDEN, np.float64) @ np.asarray(
      KERNEL, np.float64) / temperature
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize('temperature', [1.0, 0.5, 2.0])
def test_scores_equal_the_naive_log_softmax(temperature):
  log_p, entropy = score(HIDDEN, KERNEL, temperature=temperature)
  naive = table(temperature)
  for b in range(B):
    assert log_p[b, 0] == entropy[b, 0] == 0
    for t in range(1, T):  # the state before a token scores it
      row = naive[b, t - 1]
      assert log_p[b, t] == pytest.approx(row[TOKENS[b, t]], abs=1e-5)
      assert entropy[b, t] == pytest.approx(
          -(np.exp(row) * row).sum(), abs=1e-5)


WEIGHTS = normal(2, B, T)


@functools.partial(jax.jit, static_argnums=2)
def graded(hidden, kernel, elements):
  def total(hidden, kernel):
    both = jnp.stack(score(hidden, kernel, elements=elements))
    return (both * WEIGHTS).sum(), both
  return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(
      hidden, kernel)


@pytest.mark.parametrize('elements', [1, V * B * 2, V * B * 3])
def test_chunked_equals_unchunked_with_gradients(elements):
  """5 columns: chunks of 1, of 2 and of 3, which leave a remainder."""
  want, got = (graded(HIDDEN, KERNEL, n) for n in (10**6, elements))
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)
  assert np.abs(want[1][1]).max() > 0.1


def arrays_of(jaxpr):
  """The shapes of every value of a jaxpr, of the jaxprs inside it too."""
  for equation in jaxpr.eqns:
    for value in equation.outvars:
      yield tuple(value.aval.shape)
    for inner in core.jaxprs_in_params(equation.params):
      yield from arrays_of(inner)


def largest_table(elements):
  """Rows of the largest array of logits, forward and backward."""
  step = jax.grad(lambda h, k: score(h, k, elements=elements)[0].sum(), (0, 1))
  shapes = list(arrays_of(jax.make_jaxpr(step)(HIDDEN, KERNEL).jaxpr))
  assert shapes
  return max(int(np.prod(s[:-1])) for s in shapes if s[-1:] == (V,))


def test_no_array_of_all_logits_exists_in_chunks():
  assert largest_table(10**6) == B * (T - 1)
  assert largest_table(V * B * 2) == B * 2  # columns of all rows
  assert largest_table(1) <= max(B, D)  # a column, or the kernel itself


def test_scoring_needs_a_temperature():
  with pytest.raises(ValueError, match='above 0'):
    score(HIDDEN, KERNEL, temperature=0.0)


def diverge(elements=10**6):
  return jax.jit(lambda h, k, h2, k2: log_probs.divergence(
      lambda x: x @ k, h, lambda x: x @ k2, h2, elements=elements))(
          HIDDEN, KERNEL, OTHER_HIDDEN, OTHER_KERNEL)


def test_divergence_is_the_exact_kl_of_what_scores_a_token():
  got = diverge()
  logits = np.asarray(OTHER_HIDDEN, np.float64) @ np.asarray(OTHER_KERNEL)
  q = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  p = table()
  want = (np.exp(p) * (p - q)).sum(-1)
  np.testing.assert_array_equal(got[:, 0], 0)
  np.testing.assert_allclose(got[:, 1:], want[:, :-1], rtol=1e-5)


def test_divergence_in_chunks_is_the_same():
  np.testing.assert_allclose(diverge(V * 4), diverge(), rtol=1e-5)


def test_divergence_of_a_policy_from_itself_is_zero():
  head = lambda h: h @ KERNEL
  kl = log_probs.divergence(head, HIDDEN, head, HIDDEN)
  np.testing.assert_allclose(kl, 0, atol=1e-6)


def test_logits_of_a_coarse_head_are_normalised_in_float32():
  """bfloat16 has 8 bits: a log-sum-exp in it would be off by far more."""
  coarse = (20 * KERNEL).astype(jnp.bfloat16)
  log_p, _ = log_probs.of_tokens(
      lambda h: h.astype(jnp.bfloat16) @ coarse, HIDDEN, TOKENS)
  assert log_p.dtype == jnp.float32
  logits = np.asarray(
      HIDDEN[:, :-1].astype(jnp.bfloat16) @ coarse, np.float64)
  norm = np.log(np.exp(logits).sum(-1))
  want = np.take_along_axis(
      logits, np.asarray(TOKENS)[:, 1:, None], -1)[..., 0] - norm
  np.testing.assert_allclose(log_p[:, 1:], want, atol=1e-3)


@pytest.mark.parametrize('elements', [10**6, 5 * V])
def test_gradients_of_scores_and_entropies_are_those_of_the_table(elements):
  weights, others = normal(B, T), normal(B, T)

  def ours(hidden, kernel):
    log_p, entropy = score(
        hidden, kernel, elements=elements, temperature=1.5)
    return jnp.sum(weights * log_p) + jnp.sum(others * entropy)

  def plain(hidden, kernel):
    logits = hidden[:, :-1] @ kernel / 1.5
    log_p = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
    chosen = jnp.sum(
        jax.nn.one_hot(TOKENS[:, 1:], V) * log_p, axis=-1)
    return (jnp.sum(weights[:, 1:] * chosen)
            + jnp.sum(others[:, 1:] * entropy))

  for one, other in zip(*(
      jax.grad(f, argnums=(0, 1))(HIDDEN, KERNEL) for f in (ours, plain)),
      strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
