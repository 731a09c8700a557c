"""The sampler and the trainer speak of one distribution; the critic aligns."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft import policy
from rlft.adapters import value_head
from tests import tiny

NEW = 6
PROMPTS = np.array([
    [0, 0, 1, 9, 7], [1, 5, 6, 8, 40], [0, 0, 0, 0, 0], [0, 1, 30, 31, 32]],
    np.int32)  # the third row is nobody's
REAL = [0, 1, 3]
KEYS = jax.random.split(jax.random.key(3), 4)
NEVER = ()  # completions go on to their limit


@functools.cache
def sampler(temperature, stops=NEVER, rule=None):
  return jax.jit(functools.partial(
      policy.sample, tiny.model(), max_new_tokens=NEW, stops=stops,
      temperature=temperature, rule=rule))


@functools.cache
def scorer(temperature):
  return jax.jit(functools.partial(
      policy.forward, tiny.model(), temperature=temperature))


@jax.jit
def logits_of(params, tokens):
  variables = {'params': params['policy']}
  hidden, _ = tiny.model().apply(variables, tokens)
  return tiny.model().apply(variables, hidden, method='head')


def drawn(temperature=0.7, rows=range(4), **options):
  rows = np.array(rows)
  return jax.device_get(sampler(temperature, **options)(
      tiny.initialised(), jnp.asarray(PROMPTS[rows]), KEYS[rows]))


def test_sampled_log_probs_are_the_trainers():
  out = drawn()
  scored = scorer(0.7)(tiny.initialised(), jnp.asarray(out.tokens)).log_probs
  assert out.mask.sum() == len(REAL) * NEW
  np.testing.assert_allclose(
      out.log_probs[out.mask], scored[out.mask], atol=1e-4)


def test_greedy_is_the_argmax_without_a_cache():
  out = drawn(0.0)
  tokens = np.pad(PROMPTS, ((0, 0), (0, NEW)))
  for t in range(PROMPTS.shape[1], tokens.shape[1]):
    logits = np.asarray(logits_of(tiny.initialised(), tokens))[REAL, t - 1]
    tokens[REAL, t] = logits.argmax(-1)
    log_p = np.log(np.exp(logits).max(-1) / np.exp(logits).sum(-1))
    np.testing.assert_allclose(  # at temperature 1, as the docstring says
        out.log_probs[REAL, t], log_p, atol=1e-4)
  np.testing.assert_array_equal(out.tokens, tokens)


def test_prompts_stand_before_the_completions():
  out = drawn()
  width = PROMPTS.shape[1]
  np.testing.assert_array_equal(out.tokens[:, :width], PROMPTS)
  assert not out.mask[:, :width].any()
  assert out.mask[REAL, width:].all()
  assert not out.log_probs[~out.mask].any()


def test_a_row_of_pads_stays_empty():
  out = drawn()
  assert not out.tokens[2].any()
  assert not out.mask[2].any()


@pytest.mark.parametrize('rows', [[3, 1], [1, 0]])
def test_neither_batch_nor_order_changes_the_text(rows):
  whole, part = drawn(), drawn(rows=rows)
  np.testing.assert_array_equal(part.tokens, whole.tokens[rows])
  np.testing.assert_allclose(part.log_probs, whole.log_probs[rows], atol=1e-5)


def test_keys_decide_the_text():
  again = sampler(0.7)(
      tiny.initialised(), jnp.asarray(PROMPTS), KEYS[jnp.array([1, 0, 2, 3])])
  other = np.asarray(again.tokens) != drawn().tokens
  assert other[0].any() and other[1].any() and not other[3].any()


def test_the_end_token_ends_a_row_and_all_ends_end_the_loop():
  calls = []

  def heard(logits):
    jax.debug.callback(lambda: calls.append(1))
    return logits

  free = drawn()
  first = PROMPTS.shape[1]
  end = int(free.tokens[1, first + 2])
  out = drawn(rows=[1, 1], stops=(end,), rule=heard)
  jax.effects_barrier()
  length = free.tokens[1, first:].tolist().index(end) + 1
  stop = first + length
  for row in range(2):
    np.testing.assert_array_equal(
        out.tokens[row, :stop], free.tokens[1, :stop])
    assert not out.tokens[row, stop:].any()
    assert np.flatnonzero(out.mask[row]).tolist() == list(range(first, stop))
  assert len(calls) == length < NEW


def test_a_rule_bends_the_logits():
  only = lambda logits: jnp.where(
      jnp.arange(logits.shape[-1])[None] == 77, logits, -jnp.inf)
  out = drawn(rows=[0, 1], rule=only)
  assert (out.tokens[out.mask] == 77).all()
  np.testing.assert_allclose(out.sampling_log_probs[out.mask], 0, atol=1e-6)
  assert (out.log_probs[out.mask] < -1).all()  # the trainer knows no rule


def test_frequencies_are_those_of_the_softmax_at_the_temperature():
  """Chi-square of 4000 draws over 6 words: 20.5 is its 99.9 % point."""
  n, temperature, words = 4000, 0.5, slice(4, 10)
  draw = jax.jit(functools.partial(
      policy.sample, tiny.model(), max_new_tokens=1, stops=NEVER,
      temperature=temperature, rule=lambda logits: jnp.full_like(
          logits, -jnp.inf).at[:, words].set(logits[:, words])))
  prompts = np.tile(np.array([[1, 40]], np.int32), (n, 1))
  tokens = draw(tiny.initialised(), jnp.asarray(prompts),
                jax.random.split(jax.random.key(5), n)).tokens
  padded = np.pad(prompts[:4], ((0, 0), (0, 9)))  # a shape met before
  logits = np.asarray(
      logits_of(tiny.initialised(), jnp.asarray(padded)))[0, 1, words]
  share = lambda x: n * np.exp(x) / np.exp(x).sum()
  counts = np.bincount(np.asarray(tokens[:, 2]), minlength=10)[words]
  distance = lambda expected: ((counts - expected) ** 2 / expected).sum()
  assert counts.sum() == n
  assert distance(share(logits / temperature)) < 20.5
  assert distance(share(logits)) > 100  # the temperature matters


ROW = np.array([1, 5, 9, 7, 11, 6], np.int32)
# the row, then the row with its first, second, ... token exchanged
ROWS = jnp.asarray(np.vstack([ROW, ROW + 20 * np.eye(6, dtype=np.int32)]))


@functools.cache
def with_critic(seed=0):
  """A policy with a critic whose value head is not zero any more."""
  params = tiny.initialised(seed)
  critic = value_head.make(params['policy'])
  return {**params, 'critic': tiny.noised(critic, 0.3)}


def test_a_new_critic_values_everything_at_zero_and_is_a_copy():
  params = tiny.initialised()
  critic = value_head.make(params['policy'])
  out = scorer(1.0)({**params, 'critic': critic}, ROWS)
  assert not np.asarray(out.values).any()
  body, own = critic['model'], params['policy']
  assert 'head' not in body  # what would never get a gradient
  np.testing.assert_array_equal(
      body['embed']['embedding'], own['embed']['embedding'])
  buffer = lambda tree: tree['embed']['embedding'].unsafe_buffer_pointer()
  assert buffer(body) != buffer(own)  # donating one must not kill the other


def test_a_value_depends_on_what_is_before_its_token_alone():
  values = np.asarray(scorer(1.0)(with_critic(), ROWS).values)
  for s in range(6):
    gap = np.abs(values[1 + s] - values[0])
    assert (gap[:s + 1] < 1e-5).all() and (gap[s + 1:] > 1e-4).all()


def test_values_are_the_head_on_the_state_before():
  params = with_critic()
  body, head = (params['critic'][k] for k in ('model', 'value_head'))
  hidden, _ = jax.jit(tiny.model().apply)({'params': body}, ROWS)
  kernel, bias = (np.asarray(head[k]) for k in ('kernel', 'bias'))
  want = np.asarray(hidden) @ kernel + bias
  got = scorer(1.0)(params, ROWS).values
  assert got[0, 0] == 0
  np.testing.assert_allclose(got[:, 1:], want[:, :-1, 0], atol=1e-5)


def test_policy_and_critic_share_no_gradient():
  def both(params):
    out = policy.forward(tiny.model(), params, ROWS)
    return out.log_probs.sum(), out.values.sum()

  @jax.jit
  def slopes(params):
    _, back = jax.vjp(both, params)
    return back((1.0, 0.0))[0], back((0.0, 1.0))[0]

  steepest = lambda tree: [np.abs(x).max() for x in jax.tree.leaves(tree)]
  of_scores, of_values = slopes(with_critic())
  assert min(steepest(of_scores['policy'])) > 0
  assert max(steepest(of_scores['critic'])) == 0
  assert max(steepest(of_values['policy'])) == 0
  assert min(steepest(of_values['critic'])) > 0


def test_without_a_critic_values_are_zeros():
  out = scorer(1.0)(tiny.initialised(), ROWS)
  assert not np.asarray(out.values).any()
  assert out.values.shape == ROWS.shape
