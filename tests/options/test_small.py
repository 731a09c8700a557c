"""Decoding rules, rewards, adapters, passes, schedules and limits."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlft import parts
from rlft.adapters import lora
from rlft.ops import alarms
from rlft.rewards import kl, overlong
from rlft.training import optimizer, steps
from rlft.types import Batch, Outputs, TrainState
from tests import options, tiny
from tests.options import Beside

LOGITS = jax.random.normal(jax.random.key(0), (3, 12))
RULES = {'truncated': dict(top_k=3, top_p=0.4)}
NUMBERS = jax.random.normal(jax.random.key(1), (3, 2, 6))
MASK = jnp.array([[0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 0, 0]], bool)


def rule(name):
  function = parts.load('decoding', name).rule
  return options.Part(
      f'decoding {name}', options.keywords(function),
      lambda **given: function(LOGITS, **given), RULES.get(name, {}))


def penalised(**given):
  return kl.penalise(*NUMBERS, MASK, **dict(coef=0.1) | given)


def adapted(**given):
  return kl.adapted(0.2, 0.55, **dict(target=0.5, horizon=100, rows=8) | given)


def overlong_of(**given):
  return overlong.penalise(
      NUMBERS[0], MASK, **dict(limit=4, margin=2) | given)


def adapted_model(**given):
  """The merged kernels of adapters that are not zero."""
  params = lora.attach(dict(tiny.initialised()), jax.random.key(0),
                       **dict(rank=2) | given)
  params[lora.LORA] = jax.tree.map(lambda x: x + 0.1, params[lora.LORA])
  return jax.device_get(lora.merge(params))


TREE = {'policy': jnp.array([1.0, -2.0]), 'critic': jnp.array([0.5])}


def schedule(**given):
  """Parameters after each of some steps, of which one is a spike."""
  tx = optax.with_extra_args_support(optimizer.make(
      scale=optax.scale_by_adam(), num_steps=12,
      **dict(learning_rate=0.1) | given))
  params, state, seen = TREE, tx.init(TREE), []
  for step in range(8):
    size = (1 + 0.1 * (step % 3)) * (40.0 if step == 6 else 1.0)
    grads = jax.tree.map(lambda x, size=size: size * x, params)
    changes, state = tx.update(grads, state, params, value=jnp.asarray(size))
    params = optax.apply_updates(params, changes)
    seen.append(params)
  return jax.device_get(seen)


def halts(**given):
  """Which of some steps end a run."""
  found = []
  for seen, data in (
      (dict(skipped=1.0), {}), (dict(kl=0.5), {}), (dict(ratio_max=9.0), {}),
      (dict(entropy=0.01), {}), ({}, dict(zero_spread=0.9)),
      ({}, dict(empty=0.9)), ({}, dict(truncated=0.9)),
      ({}, dict(unjudged=0.9))):
    try:
      found.append(alarms.look(seen, data, 4, step=9, **given))
    except alarms.Halt:
      found.append('halt')
  return found


def forward(params, tokens):
  scored = jax.nn.log_sigmoid(params['policy'][tokens])
  return Outputs(scored, scored, scored, scored[..., None])


def loss(outputs, batch):
  value = -jnp.mean(outputs.log_probs * (1.0 + batch.tokens))
  return value, {'completion_tokens': jnp.sum(batch.mask)}


BATCH = Batch(jax.random.randint(jax.random.key(2), (8, 3), 0, 5),
              jnp.ones((8, 3), bool))


def passed(function, **given):
  """The update as a program, not run yet, and its state."""
  tx = optax.sgd(0.3)
  params = {'policy': jnp.arange(5.0)}
  state = TrainState(
      jnp.zeros((), jnp.int32), params, tx.init(params), jax.random.key(0))
  return functools.partial(
      function, forward=forward, loss=loss, tx=tx, **given), state


def minibatched(**given):
  step, state = passed(
      steps.minibatch_epochs, **dict(epochs=1, minibatches=2) | given)
  return jax.device_get(jax.jit(step)(state, BATCH)[0].params)


GIVEN = ('forward', 'loss', 'tx', 'group')  # by the run
PARTS = [
    *map(rule, parts.names('decoding')),
    options.Part('rewards kl', options.keywords(kl.penalise), penalised,
                 dict(coef=0.3, estimator='k3')),
    options.Part('rewards kl adapted', options.keywords(kl.adapted), adapted,
                 dict(target=0.8, horizon=50, rows=4)),
    options.Part('rewards overlong', options.keywords(overlong.penalise),
                 overlong_of, dict(limit=5, margin=3, penalty=0.5)),
    options.Part('adapters lora', options.keywords(lora.attach), adapted_model,
                 dict(rank=3, alpha=8.0, select='query/kernel')),
    options.Part('optimizer', options.keywords(
        optimizer.make, ('scale', 'num_steps')), schedule, dict(
            learning_rate=0.2, schedule='cosine', warmup_steps=3,
            horizon=Beside(24, dict(schedule='cosine')),
            critic_learning_rate=0.3,
            critic_warmup_steps=Beside(4, dict(warmup_steps=2)),
            weight_decay=0.1, clip_norm=0.01,
            spike_sigmas=Beside(3.0, dict(spike_window=8)),
            spike_window=Beside(16, dict(spike_sigmas=3.0, spike_window=8)))),
    options.Part('limits', options.keywords(alarms.look, ('step',)), halts,
                 dict(skipped=5, max_kl=0.4, max_ratio=8.0, min_entropy=0.1,
                      max_zero_spread=0.8, max_empty=0.8, max_truncated=0.8,
                      max_unjudged=0.8)),
    options.Part('passes', options.keywords(
        steps.minibatch_epochs, (*GIVEN, 'microbatches')), minibatched,
                 dict(epochs=2, minibatches=4)),
]


@pytest.mark.parametrize('part, word', options.cases(PARTS))
def test_every_keyword_does_something(part, word):
  options.check(part, word)


@pytest.mark.parametrize('function, given', [
    (steps.gradient_step, {}),
    (steps.minibatch_epochs, dict(epochs=1, minibatches=2))])
def test_microbatches_change_the_program_and_not_the_result(function, given):
  """For memory alone: a batch is taken in parts, one after the other."""
  found, programs = [], []
  for count in (1, 2):
    step, state = passed(function, microbatches=count, **given)
    programs.append(str(jax.make_jaxpr(step)(state, BATCH)))
    found.append(jax.jit(step)(state, BATCH)[0].params['policy'])
  np.testing.assert_allclose(*found, rtol=1e-6)
  assert programs[0].count('scan') < programs[1].count('scan')


def test_passes_have_no_other_keyword():
  assert set(options.keywords(steps.gradient_step)) - {*GIVEN} == {
      'microbatches'}
