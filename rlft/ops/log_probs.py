"""The one place where logits are made: log-probabilities and entropy.

No array of shape (B, T, V) larger than a chunk ever exists: the vocabulary
head is applied to chunks of tokens, forward and (by rematerialisation)
backward, with a float32 log-sum-exp. Logits are divided by the sampling
temperature, so that trainer and sampler speak of the same distribution.
"""
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlft.ops import kl, sharding

ELEMENTS = 2**26  # logits alive at once: 256 MiB in float32


def of_tokens(
    head: Callable,
    hidden: Float[Array, 'B T D'],
    tokens: Int[Array, 'B T'],
    *,
    temperature: float = 1.0,
    elements: int = ELEMENTS,
) -> tuple[Float[Array, 'B T'], Float[Array, 'B T']]:
  """Log-probability of each token given those before it, and the entropy.

  Position t is scored by the hidden state at t - 1; both are 0 at t = 0.
  `head` maps (N, D) to (N, V). Units: nats.
  """
  if temperature <= 0:
    raise ValueError(f'temperature {temperature} must be above 0 to score')
  def score(part):
    states, chosen = part
    return _scored(_logits(head, states) / temperature, chosen)

  parts = _in_chunks(score, head, elements, (hidden[:, :-1], tokens[:, 1:]))
  log_p, entropy = (jnp.pad(p, ((0, 0), (1, 0))) for p in parts)
  return log_p, entropy


def _logits(head: Callable, states: Float[Array, 'B T D']):
  return sharding.named(
      head(states).astype(jnp.float32), 'rows', None, 'vocabulary')


@jax.custom_vjp
def _scored(
    logits: Float[Array, '*N V'], chosen: Int[Array, '*N'],
) -> tuple[Float[Array, '*N'], Float[Array, '*N']]:
  """log p of the chosen ones, and the entropy; the gradient in one pass."""
  return _score(logits, chosen)[0]


def _score(logits, chosen):
  log_p = jax.nn.log_softmax(logits, axis=-1)
  # Added up, not taken: the vocabulary may be cut over devices.
  picked = jnp.sum(jnp.where(_here(log_p, chosen), log_p, 0.0), axis=-1)
  entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
  return (picked, entropy), (log_p, chosen, entropy)


def _score_back(kept, changes):
  # d picked / d logit = 1[chosen] - p;  d entropy / d logit = -p (log p + H)
  log_p, chosen, entropy = kept
  by_picked, by_entropy = (x[..., None] for x in changes)
  spread = by_picked + by_entropy * (log_p + entropy[..., None])
  taken = jnp.where(_here(log_p, chosen), by_picked, 0.0)
  return taken - jnp.exp(log_p) * spread, None


def _here(log_p, chosen):
  words = jax.lax.broadcasted_iota(chosen.dtype, log_p.shape, log_p.ndim - 1)
  return words == chosen[..., None]


_scored.defvjp(_score, _score_back)


def divergence(
    head: Callable,
    hidden: Float[Array, 'B T D'],
    ref_head: Callable,
    ref_hidden: Float[Array, 'B T D'],
    *,
    elements: int = ELEMENTS,
) -> Float[Array, 'B T']:
  """Exact KL(policy || reference) of the distributions that score each token.

  Over the whole vocabulary, in nats, at temperature 1; 0 at t = 0.
  """
  def score(part):
    states, ref_states = part
    return kl.exact(_logits(head, states), _logits(ref_head, ref_states))

  parts = _in_chunks(
      score, head, elements, (hidden[:, :-1], ref_hidden[:, :-1]))
  return jnp.pad(parts, ((0, 0), (1, 0)))


def _in_chunks(score: Callable, head: Callable, elements: int, rows):
  """score of (B, T) tokens, so many columns at a time that logits fit.

  Under `elements` of them on each device, or one column: rows are cut over
  devices, so that columns are what is taken one after the other.
  """
  b, t, d = rows[0].shape
  size = jax.eval_shape(head, jax.ShapeDtypeStruct((1, d), rows[0].dtype))
  each = b * size.shape[-1] // math.prod(sharding.shape().values())
  chunk = max(1, elements // max(1, each))
  if t <= chunk:  # kept for the backward pass: faster, and there is room
    return score(rows)
  extra = -t % chunk

  def cut(x):
    wide = jnp.pad(x, ((0, 0), (0, extra)) + ((0, 0),) * (x.ndim - 2))
    return jnp.moveaxis(wide.reshape(b, -1, chunk, *x.shape[2:]), 1, 0)

  parts = jax.lax.map(jax.checkpoint(score), jax.tree.map(cut, rows))
  return jax.tree.map(
      lambda x: jnp.moveaxis(x, 0, 1).reshape(b, -1)[:, :t], parts)
