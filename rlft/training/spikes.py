"""Updates that stand out are skipped: OLMo 2 (arXiv 2501.00656, section 3.2).

The losses and gradient norms of the last steps are part of the optimizer's
state, and so of every checkpoint: a run that goes on skips the same steps.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree


class History(NamedTuple):
  """The state of another transformation, and what its last steps were like."""
  inner: PyTree
  losses: Float[Array, 'W']  # a ring
  norms: Float[Array, 'W']  # of gradients
  seen: Int[Array, '']  # steps
  skipped: Int[Array, '']  # of them


def skipping(
    tx: optax.GradientTransformation, *, sigmas: float, window: int = 128,
) -> optax.GradientTransformationExtraArgs:
  """`tx`, but for steps whose loss or gradient norm is a spike.

  That is more than `sigmas` standard deviations above the mean of the last
  `window` steps, once there are half as many. A spike changes neither
  parameters nor moments; it counts as one of the last steps, so that a level
  that stays is not skipped for ever. `update` wants the loss as `value`.
  """
  if sigmas <= 0 or window < 4:
    raise ValueError(f'spikes of {sigmas:g} sigmas over {window} steps: give '
                     'more than 0 sigmas, and 4 steps or more')

  def init(params):
    ring, none = jnp.zeros(window), jnp.zeros((), jnp.int32)
    return History(tx.init(params), ring, ring, none, none)

  def update(grads, state, params=None, *, value, **more):
    del more
    norm = optax.tree.norm(grads)
    spike = (_stands_out(value, state.losses, state.seen, sigmas)
             | _stands_out(norm, state.norms, state.seen, sigmas))
    changes, inner = tx.update(grads, state.inner, params)
    changes = jax.tree.map(lambda x: jnp.where(spike, 0, x), changes)
    inner = jax.tree.map(
        lambda new, old: jnp.where(spike, old, new), inner, state.inner)
    at = state.seen % window
    return changes, History(
        inner, state.losses.at[at].set(value), state.norms.at[at].set(norm),
        state.seen + 1, state.skipped + spike)

  return optax.GradientTransformationExtraArgs(init, update)


def _stands_out(
    x: Float[Array, ''], ring: Float[Array, 'W'], seen: Int[Array, ''],
    sigmas: float,
) -> Bool[Array, '']:
  known = jnp.arange(ring.size) < seen
  mean, deviation = jnp.mean(ring, where=known), jnp.std(ring, where=known)
  return (seen >= ring.size // 2) & (x > mean + sigmas * deviation)


def since(
    after: PyTree, before: PyTree) -> dict[str, Float[Array, '']]:
  """The metric `spike`, 1 where the step was one; none without a history."""
  if not isinstance(after, History):
    return {}
  return {'spike': (after.skipped - before.skipped).astype(jnp.float32)}
