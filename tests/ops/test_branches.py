"""A prompt that is in a row once says what it says in each of its rows."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlft import policy
from rlft.adapters import value_head
from rlft.models import transformer
from rlft.objectives import grpo
from rlft.ops import branches
from rlft.training import steps
from rlft.types import Batch, Experience, Rollout, TrainState
from tests import tiny

GROUP, PROMPT, WIDTH, TAIL = 3, 5, 12, 7
PAD, BOS = 0, 1
TX = optax.sgd(0.1)


def tokens():
  """Two groups; prompts of two lengths, completions of several, a document
  that begins in one, a prompt that is longer than what is shared."""
  rng = np.random.default_rng(0)
  rows = rng.integers(3, 40, (2 * GROUP, WIDTH)).astype(np.int32)
  for start, of in ((0, rows[:GROUP]), (2, rows[GROUP:])):
    of[:, :PROMPT + 1] = of[:1, :PROMPT + 1]
    of[:, :start], of[:, start] = PAD, BOS
  rows[1, 9:], rows[2, 8], rows[4, 6:] = PAD, BOS, PAD
  return rows


def model(bos=BOS, layers=2):
  return tiny.model().clone(bos_id=bos, layers=layers)


@functools.cache
def params(layers=2):
  fresh = {'policy': transformer.initialise(
      model(layers=layers), jax.random.key(0))}
  fresh = tiny.noised(fresh, 0.1)
  return {**fresh, 'critic': tiny.noised(
      value_head.make(fresh['policy']), 0.1)}


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def scored(model, params, rows, prompt, group):
  return policy.forward(
      model, params, rows, temperature=0.7, prompt=prompt, group=group)


@pytest.mark.parametrize('bos', [BOS, None])
@pytest.mark.parametrize('group', [1, GROUP])
@pytest.mark.parametrize('layers', [2, 9])  # spelled out, and a loop
def test_what_is_said_of_completions_is_the_same(bos, group, layers):
  made = model(bos, layers)
  rows = jnp.asarray(tokens())
  want = scored(made, params(layers), rows, 0, 1)
  got = scored(made, params(layers), rows, PROMPT, group)
  real = (tokens() != PAD) & (np.arange(WIDTH) >= PROMPT)
  for name in ('log_probs', 'entropy', 'values'):
    one, other = (np.asarray(getattr(x, name)) for x in (got, want))
    np.testing.assert_allclose(one[real], other[real], atol=2e-5)
    assert not one[:, :PROMPT].any() and other[:, 1:PROMPT].any()
    assert len(set(np.round(one[real], 4))) > 20


def experience():
  rng = np.random.default_rng(1)
  rows = tokens()
  mask = (rows != PAD) & (np.arange(WIDTH) >= PROMPT + 1)
  noise = lambda: rng.normal(size=rows.shape).astype(np.float32)
  zero = np.zeros(rows.shape, np.float32)
  rollout = Rollout(
      tokens=rows, mask=mask, turn_ids=np.where(mask, 0, -1).astype(np.int32),
      rewards=zero, weights=zero + 1, sampler_log_probs=zero,
      truncated=np.zeros(len(rows), bool), log_probs=-3 + 0.1 * noise(),
      ref_log_probs=-3 + 0.1 * noise(), values=zero,
      prompt_ids=np.repeat(np.arange(2, dtype=np.int32), GROUP))
  return Experience(rollout, noise(), zero)


@pytest.mark.parametrize('minibatches, microbatches', [(1, 1), (1, 2), (2, 1)])
def test_an_update_is_the_same(minibatches, microbatches):
  """Its gradient too, which goes through the prompt once instead of `GROUP`
  times; groups stay together, so the minibatches are the same ones."""
  state = TrainState(jnp.zeros((), jnp.int32), {'policy': params()['policy']},
                     TX.init({'policy': params()['policy']}),
                     jax.random.key(2))

  def update(prompt):
    forward = functools.partial(policy.forward, model(), prompt=prompt,
                                group=GROUP)
    return jax.jit(functools.partial(
        steps.minibatch_epochs, forward=forward, group=GROUP,
        loss=functools.partial(grpo.loss, kl_coef=0.1), tx=TX, epochs=1,
        minibatches=minibatches, microbatches=microbatches))(
            state, jax.tree.map(jnp.asarray, experience()))

  (want, told), (got, said) = update(0), update(PROMPT)
  moved = 0.0
  for one, other, before in zip(*(
      jax.tree.leaves(x.params) for x in (got, want, state)), strict=True):
    np.testing.assert_allclose(one, other, atol=2e-6)
    moved = max(moved, float(jnp.abs(other - before).max()))
  assert moved > 1e-3
  for name in ('loss', 'grad_norm', 'ratio_max', 'kl', 'entropy'):
    np.testing.assert_allclose(said[name], told[name], rtol=2e-5)


def test_groups_stay_together_in_minibatches():
  rows = np.arange(12)[:, None] + np.zeros((1, 3), int)
  seen = []

  def forward(params, tokens):
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), tokens[:, 0])
    return params['policy']

  weight = {'policy': jnp.zeros(())}
  state = TrainState(jnp.zeros((), jnp.int32), weight, TX.init(weight),
                     jax.random.key(0))
  steps.minibatch_epochs(
      state, Batch(jnp.asarray(rows), jnp.ones(rows.shape, bool)),
      forward=forward, loss=lambda weight, batch: (weight, {}), tx=TX,
      epochs=2, minibatches=2, group=3)
  jax.effects_barrier()
  assert len(seen) == 4
  for part in seen:
    groups = part.reshape(2, 3)
    assert (groups // 3 == groups[:, :1] // 3).all()
    assert (groups % 3 == np.arange(3)[None]).all()
  assert sorted(np.concatenate(seen[:2])) == list(range(12))


def test_work_is_done_once():
  """Of the rows' 36 columns 26 are computed: two prompts of 5, 6 x 7 behind."""
  lowered = lambda prompt: scored.lower(
      model(), params(), jnp.asarray(tokens()), prompt, GROUP).compile()
  flops = [lowered(p).cost_analysis()['flops'] for p in (0, PROMPT)]
  share = (2 * PROMPT + 6 * TAIL) / (6 * WIDTH)
  assert share - 0.03 < flops[1] / flops[0] < share + 0.03


def test_rows_that_are_no_whole_groups_are_refused():
  with pytest.raises(ValueError, match=r'6 rows in 4 parts are no whole groups '
                     r'of 3.*prompt_length=0'):
    branches.split(6, 4, GROUP)
  branches.split(6, 2, GROUP)
