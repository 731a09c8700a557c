"""Update steps on models of one parameter, by hand."""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array, Int

from rlft import policy
from rlft.objectives import sft
from rlft.training import steps
from rlft.types import Batch, TrainState
from tests import tiny

ROWS, EPOCHS, MINIBATCHES = 8, 3, 4


class Rows(NamedTuple):
  """Just enough of a batch: every row holds its own number."""
  tokens: Int[Array, 'B T']

  @property
  def mask(self):
    return self.tokens >= 0


DATA = Rows(jnp.arange(ROWS)[:, None])


def state_of(params, tx, step=0):
  return TrainState(
      jnp.asarray(step, jnp.int32), params, tx.init(params), jax.random.key(7))


def test_one_step_of_gradient_descent_by_hand():
  """loss = mean (w x)^2 at w = 3, x = 1, 2: slope 2 w (1 + 4) / 2 = 15."""
  tx = optax.sgd(0.1)
  loss = lambda outputs, batch: (
      (outputs**2).mean(), {'largest': outputs.max()})
  before = state_of({'w': jnp.asarray(3.0)}, tx, step=4)
  after, metrics = jax.jit(functools.partial(
      steps.gradient_step, loss=loss, tx=tx,
      forward=lambda params, tokens: params['w'] * tokens))(
          before, Rows(jnp.array([[1], [2]])))
  assert after.params['w'] == pytest.approx(3.0 - 0.1 * 15)
  assert after.step == 5
  assert jnp.array_equal(*map(jax.random.key_data, (after.key, before.key)))
  assert metrics == pytest.approx({
      'loss': 22.5, 'largest': 6.0, 'grad_norm': 15.0, 'update_norm': 1.5,
      'skipped': 0.0})


@pytest.mark.parametrize('slope, value', [
    (np.nan, 1.0), (np.inf, 1.0), (1.0, np.nan), (1.0, -np.inf)])
def test_what_is_not_finite_changes_nothing_but_the_step(slope, value):
  """Neither parameters nor moments; the next sound update is as ever."""
  tx = optax.adam(0.1)

  def loss(outputs, batch):
    bad = batch.tokens[0, 0] == 0
    return (jnp.sum(outputs * jnp.where(bad, slope, 2.0))
            + jnp.where(bad, value, 0.0)), {}

  step = jax.jit(functools.partial(
      steps.gradient_step, loss=loss, tx=tx,
      forward=lambda params, tokens: params['w'] * tokens.astype(float)))
  start = state_of({'w': jnp.asarray(3.0)}, tx)
  sound, bad = Rows(jnp.array([[1], [2]])), Rows(jnp.array([[0], [2]]))
  first, _ = step(start, sound)
  after, metrics = step(first, bad)
  assert metrics['skipped'] == 1.0 and after.step == 2
  for name in ('params', 'opt_state'):
    jax.tree.map(np.testing.assert_array_equal,
                 getattr(after, name), getattr(first, name))
  again, metrics = step(after, sound)
  want, _ = step(first, sound)
  assert metrics['skipped'] == 0.0
  assert again.params['w'] == want.params['w'] != first.params['w']


def counting():
  """Adds to every row that a step visits the number of that step, from 1."""

  def update(grads, count, params=None):
    del params
    count = count + 1
    return jax.tree.map(lambda g: g * count.astype(g.dtype), grads), count

  return optax.GradientTransformation(
      lambda params: jnp.zeros((), jnp.int32), update)


@functools.partial(jax.jit, static_argnames='epochs')
def visited(step, epochs):
  """When each row was visited, and the metrics of the update."""
  tx = counting()
  loss = lambda outputs, batch: (
      outputs.sum(), {'ratio_max': batch.tokens.sum().astype(float),
                      'ratio_mean': batch.tokens.sum().astype(float)})
  state, metrics = steps.minibatch_epochs(
      state_of({'seen': jnp.zeros(ROWS)}, tx, step), DATA, loss=loss, tx=tx,
      forward=lambda params, tokens: params['seen'][tokens[:, 0]],
      epochs=epochs, minibatches=MINIBATCHES)
  return state, metrics


def test_every_row_is_visited_once_an_epoch():
  when = np.asarray(visited(0, 1)[0].params['seen'])
  assert sorted(when) == sorted([*range(1, MINIBATCHES + 1)] * 2)
  total = np.asarray(visited(0, EPOCHS)[0].params['seen'])
  assert total.sum() == 2 * sum(range(1, EPOCHS * MINIBATCHES + 1))
  # a row's epochs: one number of each range of MINIBATCHES
  assert total.min() >= 1 + 5 + 9 and total.max() <= 4 + 8 + 12


def test_epochs_and_steps_are_shuffled_apart():
  first = np.asarray(visited(0, 1)[0].params['seen'])
  three = np.asarray(visited(0, EPOCHS)[0].params['seen'])
  assert (three != 3 * first + 12).any()  # not one order three times over
  assert (np.asarray(visited(1, 1)[0].params['seen']) != first).any()
  np.testing.assert_array_equal(visited(0, 1)[0].params['seen'], first)


def test_an_update_is_one_step_of_the_loop():
  state, _ = visited(5, EPOCHS)
  assert state.step == 6
  assert state.opt_state == EPOCHS * MINIBATCHES


def test_metrics_are_means_or_the_largest_or_of_the_first_minibatch():
  state, metrics = visited(0, 1)
  when = np.asarray(state.params['seen'])
  assert metrics['ratio_mean'] == sum(range(ROWS)) / MINIBATCHES
  sums = [np.flatnonzero(when == n + 1).sum() for n in range(MINIBATCHES)]
  assert metrics['first_ratio_max'] == sums[0]
  assert metrics['ratio_max'] == max(sums)
  assert 'first_loss' not in metrics


def test_a_minibatch_of_which_nothing_counts_is_no_step():
  """Neither momentum nor decay moves anything, and no mean holds its zeros.

  As if there had been only the others, the first of which may come late.
  """
  def update(tokens, minibatches):
    tx = optax.adamw(0.1, weight_decay=0.1)
    loss = lambda w, batch: (jnp.sum(jnp.where(batch.mask, w, 0.0)), {
        'ratio_max': jnp.max(batch.tokens + 1.0)})
    return steps.minibatch_epochs(
        state_of({'w': jnp.asarray(3.0)}, tx), Rows(jnp.array(tokens)), tx=tx,
        loss=loss, forward=lambda params, tokens: params['w'], epochs=2,
        minibatches=minibatches)

  alone, want = update([[1], [1]], 2)
  assert want.pop('empty_minibatches') == 0
  for tokens in ([[1], [-1], [-1], [1]], [[-1], [-1], [1], [1]]):
    state, metrics = update(tokens, 4)
    jax.tree.map(np.testing.assert_array_equal,
                 (state.params, state.opt_state),
                 (alone.params, alone.opt_state))
    assert metrics.pop('empty_minibatches') == 4  # two of four, twice
    jax.tree.map(np.testing.assert_allclose, metrics, want)
    assert metrics['ratio_max'] == metrics['first_ratio_max'] == 2
  none, metrics = update([[-1]] * 4, 4)
  assert none.params['w'] == 3 and metrics['ratio_max'] == 0
  assert metrics['empty_minibatches'] == 8


def test_rows_that_do_not_split_are_refused():
  tx = optax.sgd(0.1)
  with pytest.raises(ValueError, match='8 rows do not split into 3'):
    steps.minibatch_epochs(
        state_of({'w': jnp.zeros(())}, tx), DATA, tx=tx, epochs=1,
        minibatches=3, forward=lambda params, tokens: params['w'],
        loss=lambda outputs, batch: (outputs, {}))


def test_streams_are_apart_and_repeat():
  key = jax.random.key(0)
  drawn = {(name, n): tuple(jax.random.key_data(steps.stream(key, name, n))
                            .tolist()) for name in steps.STREAMS
           for n in range(4)}
  assert len(set(drawn.values())) == len(drawn)
  again = jax.random.key_data(steps.stream(key, 'rollout', 3)).tolist()
  assert tuple(again) == drawn['rollout', 3]


@pytest.mark.parametrize('count', [2, 3, 6])
def test_microbatches_make_the_gradient_of_the_whole(count):
  """Of rows with unlike numbers of tokens that count."""
  rng = np.random.default_rng(0)
  model, params = tiny.model(), tiny.initialised()
  tokens = jnp.asarray(rng.integers(1, model.vocabulary, (6, 9)), jnp.int32)
  mask = jnp.asarray(np.arange(9)[None] > rng.integers(0, 8, (6, 1)))
  tx = optax.sgd(0.1)
  state = TrainState(
      jnp.zeros((), jnp.int32), params, tx.init(params), jax.random.key(0))

  def step(microbatches):
    return jax.jit(functools.partial(
        steps.gradient_step, loss=sft.loss, tx=tx, microbatches=microbatches,
        forward=functools.partial(policy.forward, model)))(
            state, Batch(tokens, mask))

  (whole, told), (parts, others) = step(1), step(count)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      np.asarray(a), np.asarray(b), atol=2e-6), whole.params, parts.params)
  for key in ('loss', 'grad_norm', 'update_norm'):
    assert float(others[key]) == pytest.approx(float(told[key]), rel=1e-5), key


def test_parts_weigh_what_the_loss_says_and_metrics_are_put_together():
  """Two rows, one a part; the loss says 3 and 1, the mask 1 and 3 tokens."""
  mask = jnp.array([[False, True, False, False], [False, True, True, True]])
  batch = Batch(jnp.array([[3] * 4, [1] * 4], jnp.int32), mask)

  def graded(w, part):
    x = part.tokens[0, 0].astype(float)
    return (w * x, {'loss_weight': x, 'completion_tokens': jnp.sum(part.mask),
                    'ratio_max': x, 'kl': x}), x

  (value, metrics), grad = steps.accumulated(
      graded, jnp.asarray(2.0), batch, 2)
  assert value == 2 * (3 * 3 + 1) / 4 and grad == (3 * 3 + 1) / 4
  assert metrics == {'loss_weight': 4., 'completion_tokens': 4,
                     'ratio_max': 3., 'kl': (3 + 3 * 1) / 4}


def test_microbatches_that_do_not_split_are_refused():
  with pytest.raises(ValueError, match='6 rows do not split into 4 microb'):
    steps.accumulated(len, None, Batch(
        jnp.zeros((6, 2), jnp.int32), jnp.ones((6, 2), bool)), 4)
