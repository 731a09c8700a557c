"""What every optimizer promises, whatever it is: a new file is found here."""
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlft import binding, parts

NAMES = parts.names('optimizers')
# Tall enough for what is factored, and a vector and a number beside it.
PARAMS = {'policy': {
    'kernel': 0.3 * jax.random.normal(jax.random.key(0), (2, 160, 130)),
    'scale': jnp.ones(7), 'bias': jnp.zeros(())}}
GOAL = jax.tree.map(lambda x: x * 0.5 + 0.1, PARAMS)
OTHERS = {bool: lambda x: not x, int: lambda x: 2 * x, float: lambda x: .7 * x}


def loss(params):
  return sum(jnp.sum((x - y)**2) for x, y in zip(
      jax.tree.leaves(params), jax.tree.leaves(GOAL), strict=True))


def run(name, steps=4, rate=3e-2, **settings):
  """Parameters after so many steps, and the optimizer's state."""
  tx = binding.build_optimizer(name=name, num_steps=steps, learning_rate=rate,
                      clip_norm=1e9, **settings)

  @jax.jit
  def step(params, state):
    changes, state = tx.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, changes), state

  params, state = PARAMS, tx.init(PARAMS)
  for _ in range(steps):
    params, state = step(params, state)
  return params, state


def settings_of(name):
  return inspect.signature(parts.load('optimizers', name).scale).parameters


@pytest.mark.parametrize('name', NAMES)
def test_it_descends(name):
  params, _ = run(name, steps=30, rate=1e-2)
  assert loss(params) < 0.5 * loss(PARAMS)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
      lambda x: (x.shape, x.dtype), PARAMS)


@pytest.mark.parametrize('name', NAMES)
def test_its_first_step_goes_against_the_gradient(name):
  params, _ = run(name, steps=1)
  for new, old, g in zip(*map(jax.tree.leaves, (
      params, PARAMS, jax.grad(loss)(PARAMS))), strict=True):
    assert jnp.sum((new - old) * g) < 0


@pytest.mark.parametrize('name, setting', [
    (n, s) for n in NAMES for s in settings_of(n)])
def test_every_setting_has_an_effect(name, setting):
  default = settings_of(name)[setting].default
  other = OTHERS[type(default)](default) if default else not default
  if setting in ('eps', 'eps_root'):
    other = 0.1
  if setting == 'eps_root':
    other = 0.5
  plain, _ = run(name)
  changed, _ = run(name, **{setting: other})
  assert not jnp.array_equal(
      changed['policy']['kernel'], plain['policy']['kernel'])


@pytest.mark.parametrize('name', NAMES)
def test_where_there_is_no_gradient_nothing_moves(name):
  tx = binding.build_optimizer(name=name, num_steps=9, learning_rate=1.0)
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  changes, state = tx.update(zeros, tx.init(PARAMS), PARAMS)
  for x in jax.tree.leaves(changes):
    np.testing.assert_array_equal(x, 0)
  assert all(bool(jnp.isfinite(x.astype(jnp.float32)).all())
             for x in jax.tree.leaves(state))
