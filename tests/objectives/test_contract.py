"""What every objective promises, whatever it is: a new file is found here.

The annotation of `batch` decides which example an objective is fed. Policies
are tables of logits, so gradients are seen where they land.
"""
import functools
import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft import parts
from rlft.types import Batch, Experience, Outputs, Rollout
from tests import compiled

B, T, V, D = 4, 6, 5, 3
MASK = jnp.array([
    [False, True, True, True, True, True],
    [False, False, True, True, False, False],
    [False, True, True, False, True, True],  # feedback between two turns
    [False, False, False, False, False, False],  # nothing to learn from
])
TURN_IDS = jnp.array([
    [-1, 0, 0, 0, 0, 0],
    [-1, -1, 0, 0, -1, -1],
    [-1, 0, 0, -1, 1, 1],
    [-1, -1, -1, -1, -1, -1],
])
NAMES = parts.names('objectives')
NORMAL = jax.random.normal


@jax.jit
def outputs_of(table):
  """A forward pass of the policy whose logits and values are the table."""
  log_p = jax.nn.log_softmax(table['logits'])
  chosen = jnp.take_along_axis(log_p, TOKENS[..., None], -1)[..., 0]
  entropy = -(jnp.exp(log_p) * log_p).sum(-1)
  return Outputs(chosen, entropy, table['values'], jnp.zeros((B, T, D)))


KEYS = jax.random.split(jax.random.key(0), 7)
TOKENS = jax.random.randint(KEYS[0], (B, T), 0, V)
TABLE = {'logits': NORMAL(KEYS[1], (B, T, V)), 'values': NORMAL(
    KEYS[2], (B, T))}


@functools.cache
def example_rollout():
  near = outputs_of(TABLE)
  return Rollout(
      tokens=TOKENS, mask=MASK, turn_ids=TURN_IDS,
      # every row is right, by any objective's default; no two the same
      rewards=jnp.where(MASK, 1 + jnp.abs(NORMAL(KEYS[3], (B, T))), 0.),
      prompt_ids=jnp.array([0, 0, 0, 0]),
      # so near that no clip decides, not even one of 3e-4
      log_probs=near.log_probs + 1e-4 * NORMAL(KEYS[4], (B, T)),
      ref_log_probs=near.log_probs + 0.3 * NORMAL(KEYS[5], (B, T)),
      values=near.values + 0.05 * NORMAL(KEYS[6], (B, T)),
      weights=jnp.where(MASK, jnp.linspace(0.5, 1., T)[None], 0.),
      sampler_log_probs=near.log_probs + 1e-4 * NORMAL(KEYS[6], (B, T)),
      truncated=jnp.array([False, True, False, False]))


class Example(NamedTuple):
  """An objective with a batch for it, compiled once for all tests."""
  eager: object  # (outputs, batch) -> (loss, metrics), op by op
  loss: object  # the same as one program
  gradient: object  # (table, batch) -> (gradient to the table, metrics)
  batch: Batch | Experience


@functools.cache
def example(name):
  """The objective of that name."""
  module = parts.load('objectives', name)
  loss = compiled.whole(module.loss)
  gradient = jax.jit(jax.grad(
      lambda table, batch: loss(outputs_of(table), batch), has_aux=True))
  kind = inspect.signature(module.loss).parameters['batch'].annotation
  if kind is Batch:
    return Example(module.loss, loss, gradient, Batch(TOKENS, MASK))
  assert kind is Experience, f'no example of {kind}: add one here'
  return Example(
      module.loss, loss, gradient, advantages_of(name)(example_rollout()))


@functools.cache
def advantages_of(name):
  """As one program."""
  return compiled.whole(parts.load('objectives', name).advantages)


def poison(tree, where):
  """NaN into every per-token float of the tree at the places named."""
  def spoil(x):
    if x.shape != (B, T) or not jnp.issubdtype(x.dtype, jnp.floating):
      return x
    return np.where(where, np.nan, x).astype(x.dtype)
  return jax.tree.map(spoil, tree)


def floats(batch):
  return [x for x in jax.tree.leaves(batch)
          if jnp.issubdtype(x.dtype, jnp.floating)]


@pytest.fixture(params=NAMES)
def objective(request):
  return example(request.param)


def test_gradient_is_finite_and_reaches_every_completion_token(objective):
  grad, _ = objective.gradient(TABLE, objective.batch)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grad))
  assert np.abs(grad['logits']).sum(-1)[MASK].min() > 1e-6


def test_gradient_is_exactly_zero_off_the_mask(objective):
  grad, _ = objective.gradient(TABLE, objective.batch)
  assert not np.asarray(grad['logits'])[~MASK].any()
  assert not np.asarray(grad['values'])[~MASK].any()


def test_what_stands_off_the_mask_is_not_seen(objective):
  outputs, batch = outputs_of(TABLE), objective.batch
  want = objective.loss(outputs, batch)
  got = objective.loss(poison(outputs, ~MASK), poison(batch, ~MASK))
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_rows_without_a_token_never_matter(objective):
  given = outputs_of(TABLE), objective.batch
  want = objective.loss(*given)
  got = objective.loss(*jax.tree.map(lambda x: np.asarray(x)[:B - 1], given))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-5, atol=1e-7), got, want)


def test_order_of_rows_does_not_matter(objective):
  given = outputs_of(TABLE), objective.batch
  order = np.array([2, 0, 3, 1])
  got = objective.loss(*jax.tree.map(lambda x: np.asarray(x)[order], given))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-5, atol=1e-7), got, objective.loss(*given))


def test_jit_equals_eager(objective):
  given = outputs_of(TABLE), objective.batch
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-5, atol=1e-6),
      objective.loss(*given), objective.eager(*given))


def test_the_batch_is_data(objective):
  """No gradient enters what was computed before the update."""
  leaves, tree = jax.tree.flatten(objective.batch)
  index = [i for i, x in enumerate(leaves)
           if jnp.issubdtype(x.dtype, jnp.floating)]

  @jax.jit
  @jax.grad
  def slopes(values):
    filled = list(leaves)
    for i, value in zip(index, values, strict=True):
      filled[i] = value
    return objective.loss(outputs_of(TABLE), tree.unflatten(filled))[0]

  for grad in slopes([leaves[i] for i in index]):
    assert not np.asarray(grad).any()


def test_nothing_that_counts_is_harmless_and_visible(objective):
  empty = jax.tree.map(
      lambda x: np.zeros_like(x) if x.dtype == bool else x, objective.batch)
  grad, metrics = objective.gradient(TABLE, empty)
  assert all(not g.any() for g in jax.tree.leaves(grad))
  assert all(np.isfinite(m) for m in metrics.values())
  assert metrics['completion_tokens'] == 0


def test_metrics_are_flat_scalars(objective):
  value, metrics = objective.loss(outputs_of(TABLE), objective.batch)
  assert value.shape == ()
  assert all(m.shape == () for m in metrics.values())
  assert all(name.isidentifier() for name in metrics)
  assert metrics['completion_tokens'] == MASK.sum()


ONLINE = [name for name in NAMES
          if hasattr(parts.load('objectives', name), 'advantages')]


@pytest.mark.parametrize('name', ONLINE)
def test_advantages_are_finite_and_zero_off_the_mask(name):
  rollout = example_rollout()
  result = advantages_of(name)(rollout)
  for array in (result.advantages, result.returns):
    assert np.isfinite(array).all()
    assert not np.asarray(array)[~MASK].any()
  assert np.asarray(result.advantages)[MASK].any()
  assert all(map(np.array_equal, result.rollout, rollout))


@pytest.mark.parametrize('name', ONLINE)
def test_advantages_do_not_see_what_stands_off_the_mask(name):
  advantages, rollout = advantages_of(name), example_rollout()
  want, got = advantages(rollout), advantages(poison(rollout, ~MASK))
  np.testing.assert_array_equal(got.advantages, want.advantages)
  np.testing.assert_array_equal(got.returns, want.returns)


@pytest.mark.parametrize('name', ONLINE)
def test_jitted_advantages_equal_eager(name):
  advantages = parts.load('objectives', name).advantages
  rollout = example_rollout()
  for a, b in zip(floats(advantages_of(name)(rollout)),
                  floats(advantages(rollout)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ONLINE)
def test_rows_without_a_token_are_of_no_group(name):
  advantages, rollout = advantages_of(name), example_rollout()
  want = advantages(rollout)
  got = advantages(jax.tree.map(lambda x: np.asarray(x)[:B - 1], rollout))
  np.testing.assert_allclose(
      got.advantages, want.advantages[:B - 1], rtol=1e-5, atol=1e-6)
