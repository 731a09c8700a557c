"""Sampling under a rule: what is drawn, its two log-probs, where it stops."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft import decoding, policy
from tests import tiny

NEW, TEMPERATURE = 12, 0.7
PROMPTS = np.array([  # left-padded to several widths
    [0, 0, 0, 0, 1, 9, 7], [1, 5, 6, 8, 40, 41, 42], [0, 0, 0, 0, 0, 0, 1],
    [0, 1, 30, 31, 32, 33, 4]], np.int32)
WIDTH = PROMPTS.shape[1]
KEYS = jax.random.split(jax.random.key(3), len(PROMPTS))
TRUNCATED = dict(name='truncated', top_k=12, top_p=0.8)


@functools.cache
def peaked(kv_heads):
  """A model and parameters whose distributions are far from uniform."""
  model = tiny.model().clone(kv_heads=kv_heads)
  params = jax.jit(model.init)(
      jax.random.key(0), jnp.ones((1, 2), jnp.int32))['params']
  return model, {'policy': tiny.noised(params, 0.2)}


def drawn(kv_heads, rule=None, stops=(), temperature=TEMPERATURE):
  model, params = peaked(kv_heads)
  return jax.device_get(jax.jit(functools.partial(
      policy.sample, model, max_new_tokens=NEW, stops=stops, rule=rule,
      temperature=temperature))(params, jnp.asarray(PROMPTS), KEYS))


def scored(kv_heads, tokens, rule=None, temperature=TEMPERATURE):
  """Log-probs of all tokens of all rows, without a cache: full, and ruled."""
  model, params = peaked(kv_heads)
  variables = {'params': params['policy']}

  @jax.jit
  def run(tokens):
    hidden, _ = model.apply(variables, tokens)
    logits = model.apply(variables, hidden, method='head') / temperature
    ruled = logits if rule is None else jax.vmap(rule)(logits)
    return jax.nn.log_softmax(logits), jax.nn.log_softmax(ruled)

  full, ruled = (np.asarray(x) for x in run(jnp.asarray(tokens)))
  at = lambda x: np.pad(np.take_along_axis(
      x[:, :-1], tokens[:, 1:, None], 2)[..., 0], ((0, 0), (1, 0)))
  return at(full), at(ruled)


def bound(section):
  return decoding.bind(**section) if section else None


@pytest.mark.parametrize('kv_heads, section', [
    (1, TRUNCATED), (2, {}), (2, TRUNCATED), (4, dict(
        name='truncated', top_p=0.6))], ids=str)
def test_with_a_cache_as_without(kv_heads, section):
  """Query heads 4:1, 2:1 and 1:1 to a key head; rows stop at two tokens."""
  rule = bound(section)
  free = drawn(kv_heads, rule)
  stops = (int(free.tokens[0, WIDTH + 4]), int(free.tokens[1, WIDTH + 7]))
  out = drawn(kv_heads, rule, stops)
  mask = out.mask
  assert NEW < mask.sum() < free.mask.sum() == NEW * len(PROMPTS)
  full, ruled = scored(kv_heads, out.tokens, rule)
  np.testing.assert_allclose(out.log_probs[mask], full[mask], atol=1e-5)
  np.testing.assert_allclose(
      out.sampling_log_probs[mask], ruled[mask], atol=1e-5)
  assert not out.log_probs[~mask].any()
  assert not out.sampling_log_probs[~mask].any()
  gap = (out.sampling_log_probs - out.log_probs)[mask]
  if section:  # some mass is gone, and what is kept is never less likely
    assert gap.min() > -1e-6 and gap.max() > 0.05
  else:
    assert not gap.any()


def test_any_of_the_stop_tokens_ends_its_row():
  free = drawn(2)
  wrote = free.tokens[:, WIDTH:]
  stops = (int(wrote[0, 2]), int(wrote[1, 5]), 10_000)
  out = drawn(2, stops=stops)
  lengths = []
  for row, new in enumerate(wrote):
    hits = np.flatnonzero(np.isin(new, stops))
    lengths.append(hits[0] + 1 if hits.size else NEW)
    stop = WIDTH + lengths[-1]
    np.testing.assert_array_equal(
        out.tokens[row, :stop], free.tokens[row, :stop])
    assert not out.tokens[row, stop:].any()
    assert np.flatnonzero(out.mask[row]).tolist() == list(range(WIDTH, stop))
    np.testing.assert_allclose(
        out.log_probs[row, :stop], free.log_probs[row, :stop], atol=1e-6)
  ends = {int(wrote[row, n - 1]) for row, n in enumerate(lengths) if n < NEW}
  assert ends == set(stops[:2])  # one row by each kind


def test_greedy_draws_from_one_token():
  free, out = drawn(2, temperature=0.0), drawn(
      2, bound(TRUNCATED), temperature=0.0)
  np.testing.assert_array_equal(out.tokens, free.tokens)
  np.testing.assert_array_equal(out.log_probs, free.log_probs)
  assert not out.sampling_log_probs.any() and (out.log_probs < 0).any()


def test_one_token_that_is_kept_is_greedy():
  out = drawn(2, decoding.bind('truncated', top_k=1))
  np.testing.assert_array_equal(
      out.tokens, drawn(2, temperature=0.0).tokens)
  np.testing.assert_allclose(out.sampling_log_probs, 0, atol=1e-6)
  full, _ = scored(2, out.tokens)
  np.testing.assert_allclose(
      out.log_probs[out.mask], full[out.mask], atol=1e-5)


def truncation(p, top_k, top_p):
  """The exact truncated distribution, and the count of tokens kept."""
  order = np.argsort(-p, kind='stable')[:top_k]
  mass = np.cumsum(p[order] / p[order].sum())
  keep = order[:int(np.searchsorted(mass, top_p)) + 1]
  q = np.zeros_like(p)
  q[keep] = p[keep] / p[keep].sum()
  return q, keep


def test_frequencies_are_those_of_the_truncated_distribution():
  """Chi-square of 4000 draws over the kept tokens, against its 99.9 % point."""
  n, model, params = 4000, *peaked(2)
  prompt = PROMPTS[1:2]
  tokens = jax.jit(functools.partial(
      policy.sample, model, max_new_tokens=1, stops=(), temperature=3.0,
      rule=bound(TRUNCATED)))(
          params, jnp.asarray(np.tile(prompt, (n, 1))),
          jax.random.split(jax.random.key(5), n)).tokens[:, -1]
  counts = np.bincount(np.asarray(tokens), minlength=tiny.words().vocabulary)
  hidden, _ = model.apply({'params': params['policy']}, jnp.asarray(prompt))
  logits = np.asarray(model.apply(
      {'params': params['policy']}, hidden[0, -1:], method='head'),
      np.float64)[0] / 3.0
  p = np.exp(logits - logits.max())
  p /= p.sum()
  q, keep = truncation(p, TRUNCATED['top_k'], TRUNCATED['top_p'])
  assert len(keep) == 9 and counts[q == 0].sum() == 0
  distance = lambda q, keep: (
      (counts[keep] - n * q[keep])**2 / (n * q[keep])).sum()
  point = 26.1  # of 8 degrees of freedom
  assert distance(q, keep) < point
  # what would be drawn from if the token that crosses were dropped, or if one
  # more were kept, is far away
  for wrong in (keep[:-1], np.argsort(-p, kind='stable')[:len(keep) + 1]):
    other = np.where(np.isin(np.arange(p.size), wrong), p, 0)
    other /= other.sum()
    assert distance(other, wrong) > 2 * point or counts[
        other == 0].sum() > 100
