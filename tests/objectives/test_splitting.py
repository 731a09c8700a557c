"""What is done to rows in their order, and to a batch in its parts."""
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft import parts
from rlft.objectives import dapo, grpo
from rlft.ops import aggregate
from rlft.training import steps
from rlft.types import Batch
from tests.objectives import bigram
from tests.objectives.bigram import PARAMS, B

pytestmark = pytest.mark.slow  # a program for each case

NAMES = parts.names('objectives')
ONLINE = [name for name in NAMES
          if hasattr(parts.load('objectives', name), 'advantages')]
SOLVED = dict(solved=0.5)
# Metrics that are not of tokens: a variance over the batch, means over turns.
OF_TURNS = {'explained_variance', 'policy_loss', 'value_loss', 'ratio_mean',
            'clip_fraction', 'value_clip_fraction'}
INEXACT = dict(ppo={'explained_variance'}, turn_ppo=OF_TURNS,
               turn_ppo_published=OF_TURNS)
CREDIT = dict(one_zero_reinforce=SOLVED, expert_iteration=SOLVED)


def example(name, **arrays):
  """(loss, batch) of the objective of that name."""
  module = parts.load('objectives', name)
  if not hasattr(module, 'advantages'):
    return module.loss, Batch(bigram.TOKENS, bigram.MASK)
  return module.loss, module.advantages(
      bigram.rollout(behaviour=0.1, **arrays), **CREDIT.get(name, {}))


def graded(loss):
  return jax.value_and_grad(
      lambda params, batch: loss(bigram.forward(params, batch.tokens), batch),
      has_aux=True)


def close(got, want, atol=1e-6):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, atol=atol, rtol=1e-5), got, want)


def same_in_parts(loss, batch, count, without=frozenset()):
  """That microbatches give what the whole batch does; returns the gradient.

  And all metrics but those `without`.
  """
  whole = graded(loss)(PARAMS, batch)
  (value, metrics), grads = jax.jit(lambda batch: steps.accumulated(
      graded(loss), PARAMS, batch, count))(batch)
  told = whole[0][1]
  assert metrics.keys() == told.keys()
  some = set(told) - without
  close(({k: metrics[k] for k in some}, value, grads),
        ({k: told[k] for k in some}, whole[0][0], whole[1]))
  return grads


@pytest.mark.parametrize('count', [2, 3, B])
@pytest.mark.parametrize('name', NAMES)
def test_microbatches_change_nothing(name, count):
  """Also where the mean is not over tokens; one part has nothing in it."""
  grads = same_in_parts(
      *example(name), count, INEXACT.get(name, frozenset()))
  assert np.abs(grads['logits']).max() > 1e-3


@pytest.mark.parametrize('aggregation', sorted(aggregate.AGGREGATIONS))
@pytest.mark.parametrize('name', [
    name for name in NAMES if 'aggregation' in inspect.signature(
        parts.load('objectives', name).loss).parameters])
def test_microbatches_change_nothing_by_any_aggregation(name, aggregation):
  loss, batch = example(name)
  options = dict(aggregation=aggregation)
  if 'kl_coef' in inspect.signature(loss).parameters:
    options['kl_coef'] = 0.3
  same_in_parts(functools.partial(loss, **options), batch, 3)


def test_the_share_of_tokens_is_wrong_for_a_mean_over_rows():
  """What `loss_weight` is for: without it the gradient is another."""
  loss, batch = example('grpo')

  def silent(outputs, batch):
    value, metrics = loss(outputs, batch)
    return value, {k: v for k, v in metrics.items() if k != 'loss_weight'}

  want = graded(loss)(PARAMS, batch)[1]['logits']
  _, got = steps.accumulated(graded(silent), PARAMS, batch, 3)
  assert np.abs(got['logits'] - want).max() > 1e-3


@pytest.mark.parametrize('name', [n for n in ONLINE if 'published' not in n])
def test_shuffled_rows_have_the_same_advantages_and_gradient(name):
  """Not in the published code's returns: there rows run on into the next."""
  module = parts.load('objectives', name)
  order = np.array([3, 5, 0, 2, 4, 1])
  rollout = bigram.rollout(behaviour=0.1)
  credit = functools.partial(module.advantages, **CREDIT.get(name, {}))
  want, got = credit(rollout), credit(jax.tree.map(lambda x: x[order], rollout))
  close((got.advantages, got.returns),
        (want.advantages[order], want.returns[order]), atol=1e-5)
  close(graded(module.loss)(PARAMS, got), graded(module.loss)(PARAMS, want),
        atol=1e-5)


@pytest.mark.parametrize('module', [grpo, dapo], ids=['grpo', 'dapo'])
def test_a_minibatch_with_a_part_of_a_group_has_the_advantages_of_all(module):
  """Groups are compared before the split: each row alone still has its own."""
  batch = module.advantages(bigram.rollout())
  outputs = bigram.forward(PARAMS, batch.tokens)
  weights, values = [], []
  for i in range(B):
    row = jax.tree.map(lambda x, i=i: x[i:i + 1], (outputs, batch))
    value, metrics = module.loss(*row)
    values.append(float(value))
    weights.append(float(metrics['loss_weight']))
  whole, metrics = module.loss(outputs, batch)
  assert np.abs(values).max() > 0.05
  np.testing.assert_allclose(
      np.dot(weights, values) / sum(weights), whole, atol=1e-6)
  # a group compared within one row would be nothing
  alone = jax.tree.map(lambda x: x[:1], bigram.rollout())
  assert not np.asarray(module.advantages(alone).advantages).any()


@pytest.mark.parametrize('name', ONLINE)
def test_ids_of_prompts_are_names_not_numbers(name):
  """Any whole numbers, in any order; only who shares one matters."""
  credit = parts.load('objectives', name).advantages
  renamed = jnp.where(bigram.IDS == 4, -7, -2_000_000_000)
  close(credit(bigram.rollout(prompt_ids=renamed)).advantages,
        credit(bigram.rollout()).advantages)
