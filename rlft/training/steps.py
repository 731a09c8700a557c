"""Update steps: pure functions of (state, data), jitted once by the loop."""
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, PyTree

from rlft.ops import branches, sharding, trees
from rlft.training import spikes
from rlft.types import Metrics, TrainState

STREAMS = {'init': 0, 'data': 1, 'rollout': 2, 'shuffle': 3}


def stream(key: jax.Array, name: str, counter: jax.Array | int) -> jax.Array:
  """The key of one use: fold_in(stream), then fold_in(counter)."""
  return jax.random.fold_in(jax.random.fold_in(key, STREAMS[name]), counter)


def descend(
    state: TrainState, batch: PyTree, *, forward: Callable, loss: Callable,
    tx: optax.GradientTransformation, microbatches: int = 1,
    counts: Bool[Array, ''] | None = None, group: int = 1,
) -> tuple[TrainState, Metrics]:
  """One optimizer step; does not count as a step of the loop.

  What is frozen has neither gradient nor moments. With a loss or gradient that
  is not finite nothing is changed, and the metric `skipped` is 1; nor is it
  unless the batch `counts`, where that is said. Gradients of
  `microbatches` parts of the batch are made one after the other and added up,
  each by its weight in the loss: the gradient of the whole (`accumulated`).
  """
  trained = trees.trained(state.params)

  def objective(trained, part):
    return loss(forward({**state.params, **trained}, part.tokens), part)

  graded = jax.value_and_grad(objective, has_aux=True)
  if microbatches == 1:
    told, grads = graded(trained, sharding.rows(batch, 'a batch'))
  else:
    told, grads = accumulated(graded, trained, batch, microbatches, group)
  (value, metrics), grads = (
      sharding.everywhere(told), sharding.parameters(grads))
  norm = optax.tree.norm(grads)
  sound = jnp.isfinite(value) & jnp.isfinite(norm)
  changes, opt_state = optax.with_extra_args_support(tx).update(
      grads, state.opt_state, trained, value=value)
  taken = sound if counts is None else sound & counts
  moved, opt_state = jax.tree.map(
      lambda new, old: jnp.where(taken, new, old),
      (optax.apply_updates(trained, changes), opt_state),
      (trained, state.opt_state))
  moved, opt_state = sharding.parameters(moved), sharding.parameters(opt_state)
  params = {**state.params, **moved}
  metrics = metrics | {
      'loss': value,
      'grad_norm': norm,
      'update_norm': optax.tree.norm(changes),
      'skipped': 1.0 - sound,
  } | spikes.since(opt_state, state.opt_state)
  return state._replace(params=params, opt_state=opt_state), metrics


def accumulated(
    graded: Callable, trained: PyTree, batch: PyTree, count: int,
    group: int = 1,
) -> tuple[PyTree, PyTree]:
  """What `graded` gives of the whole batch, from `count` parts of it.

  A loss that is one mean, whatever over, says in its metric `loss_weight` how
  much was averaged: value and gradient of the parts are averaged by that, or by
  tokens that count where it says nothing. Other metrics: whole numbers are
  added up, what ends in `_max` is the largest, the rest averaged over tokens.
  ValueError when its rows do not split so.
  """
  rows = batch.tokens.shape[0]
  if count < 1 or rows % count:
    raise ValueError(f'{rows} rows do not split into {count} microbatches')
  # Every count-th group of rows, so that each part has some of every device.
  parts = jax.tree.map(lambda x: x.reshape(
      -1, count, group, *x.shape[1:]).swapaxes(0, 1).reshape(
          count, rows // count, *x.shape[1:]), batch)
  tokens = jnp.sum(parts.mask, axis=(1, 2))
  shares = tokens / jnp.maximum(jnp.sum(tokens), 1)

  def measured(part):
    (value, metrics), grads = graded(
        trained, sharding.rows(part, 'a microbatch'))
    weight = metrics.get('loss_weight', jnp.sum(part.mask)).astype(jnp.float32)
    return weight, (value, sharding.parameters(grads)), metrics

  def metric(name, total, x, share):
    if name.endswith('_max'):
      return jnp.maximum(total, x)
    added = name == 'loss_weight' or jnp.issubdtype(x.dtype, jnp.integer)
    return total + (x if added else share * x)

  def add(total, given):
    part, share = given
    weights, sums, told = total
    weight, found, metrics = measured(part)
    return (weights + weight,
            jax.tree.map(lambda t, x: t + weight * x, sums, found),
            {k: metric(k, told[k], x, share) for k, x in metrics.items()}), None

  like = jax.eval_shape(lambda: measured(jax.tree.map(lambda x: x[0], parts)))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
  (weights, sums, metrics), _ = jax.lax.scan(add, zeros, (parts, shares))
  weights = jnp.where(weights > 0, weights, 1.0)
  value, grads = jax.tree.map(lambda x: x / weights, sums)
  return (value, metrics), grads


def gradient_step(
    state: TrainState, batch: PyTree, *, forward: Callable, loss: Callable,
    tx: optax.GradientTransformation, microbatches: int = 1, group: int = 1,
) -> tuple[TrainState, Metrics]:
  """One batch, one optimizer step: SFT and every offline objective."""
  branches.split(batch.tokens.shape[0], microbatches, group)
  state, metrics = descend(state, batch, forward=forward, loss=loss, tx=tx,
                           microbatches=microbatches, group=group)
  return state._replace(step=state.step + 1), metrics


def minibatch_epochs(
    state: TrainState, data: PyTree, *, forward: Callable, loss: Callable,
    tx: optax.GradientTransformation, epochs: int, minibatches: int,
    microbatches: int = 1, group: int = 1,
) -> tuple[TrainState, Metrics]:
  """Several epochs over one rollout in shuffled minibatches: PPO.

  `group` rows, one after the other, stay together, whatever is shuffled.

  Metrics are means over the optimizer steps, but what ends in `_max` is the
  largest of them; `first_*` are those of the first
  one, where an on-policy ratio is exactly 1. A minibatch in which no token
  counts makes no step: neither moments nor decay move what is trained;
  `empty_minibatches` is how many there were.
  """
  rows = data.tokens.shape[0]
  if rows % minibatches:
    raise ValueError(
        f'{rows} rows do not split into {minibatches} minibatches')
  branches.split(rows, minibatches * microbatches, group)
  key = stream(state.key, 'shuffle', state.step)

  def epoch(state, n):
    order = jax.random.permutation(jax.random.fold_in(key, n), rows // group)
    order = (group * order[:, None] + jnp.arange(group)[None]).reshape(-1)
    parts = jax.tree.map(
        lambda x: x[order].reshape(minibatches, -1, *x.shape[1:]), data)
    counts = jnp.any(parts.mask, axis=(1, 2))
    state, metrics = jax.lax.scan(
        lambda s, part: descend(
            s, part[0], forward=forward, loss=loss, tx=tx,
            microbatches=microbatches, counts=part[1], group=group),
        state, (parts, counts))
    return state, (metrics, counts)

  state, (metrics, counts) = jax.lax.scan(epoch, state, jnp.arange(epochs))
  at = jnp.argmax(counts[0])
  first = {f'first_{k}': v[0, at] for k, v in metrics.items()
           if k in ('ratio_max', 'approx_kl', 'kl')}
  first['empty_minibatches'] = jnp.sum(~counts)
  counts |= ~jnp.any(counts)  # of nothing all metrics are 0
  metrics = {
      k: jnp.max(v, where=counts, initial=-jnp.inf) if k.endswith('_max')
      else jnp.mean(v, where=counts) for k, v in metrics.items()} | first
  return state._replace(step=state.step + 1), metrics
