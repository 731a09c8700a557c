"""What stands out changes nothing, by hand and against numpy."""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlft import binding
from rlft.training import spikes, steps
from rlft.types import TrainState

W = 8


class Rows(NamedTuple):
  """Just enough of a batch."""
  tokens: jax.Array


def played(losses, norms, **options):
  """Whether each step was skipped, and the last state."""
  tx = spikes.skipping(optax.sgd(1.0), window=W, **options)
  params = {'w': jnp.zeros(1)}
  state, found = tx.init(params), []
  update = jax.jit(lambda g, s, v: tx.update({'w': g[None]}, s, value=v))
  for loss, norm in zip(losses, norms, strict=True):
    changes, state = update(jnp.float32(norm), state, jnp.float32(loss))
    found.append(float(changes['w'][0]) == 0)
  return found, state


def expected(losses, norms, sigmas):
  out = lambda x, last: len(last) >= W // 2 and (
      x > np.mean(last[-W:]) + sigmas * np.std(last[-W:]))
  return [bool(out(losses[i], losses[:i]) or out(norms[i], norms[:i]))
          for i in range(len(losses))]


@pytest.mark.parametrize('sigmas', [1.0, 3.0])
def test_the_rule_is_that_of_numpy(sigmas):
  rng = np.random.default_rng(0)
  losses, norms = (rng.gamma(2, size=60).astype(np.float32) + .1
                   for _ in range(2))
  found, state = played(losses, norms, sigmas=sigmas)
  assert found == expected(losses, norms, sigmas)
  assert 0 < sum(found) < 50 and int(state.skipped) == sum(found)


def test_a_level_that_stays_is_no_spike_for_ever():
  found, _ = played([1.0] * 10 + [9.0] * 10, [1.0] * 20, sigmas=2.0)
  assert found[10] and not any(found[:10]) and not any(found[12:])


def test_a_spike_leaves_moments_and_parameters_and_is_told():
  tx = binding.build_optimizer(
      num_steps=100, learning_rate=.1, spike_sigmas=6.0, spike_window=W)
  loss = lambda outputs, batch: (jnp.sum(outputs), {})

  def forward(params, tokens):
    return params['policy'] * tokens.astype(jnp.float32)

  step = jax.jit(lambda state, x: steps.descend(
      state, Rows(x), forward=forward, loss=loss, tx=tx))
  state = TrainState(jnp.zeros((), jnp.int32), {'policy': jnp.ones(1)},
                     tx.init({'policy': jnp.ones(1)}), jax.random.key(0))
  for i in range(W):
    state, metrics = step(state, jnp.full(1, 1 + i % 2))
    assert metrics['spike'] == 0
  after, metrics = step(state, jnp.full(1, 1000))
  assert metrics['spike'] == 1 and metrics['skipped'] == 0
  same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
  same(after.params, state.params)
  same(after.opt_state.inner, state.opt_state.inner)
  again, metrics = step(after, jnp.full(1, 1))
  assert metrics['spike'] == 0
  assert not np.array_equal(again.params['policy'], after.params['policy'])


@pytest.mark.parametrize('options', [
    dict(sigmas=0.0), dict(sigmas=-1.0), dict(sigmas=6.0, window=3)])
def test_settings_that_make_no_sense_are_refused(options):
  with pytest.raises(ValueError, match='sigmas'):
    spikes.skipping(optax.sgd(1.0), **options)
