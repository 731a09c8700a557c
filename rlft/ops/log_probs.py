"""The one place where logits are made: log-probabilities and entropy.

No array of shape (B, T, V) larger than a chunk ever exists: the vocabulary
head is applied to chunks of tokens, forward and (by rematerialisation)
backward, with a float32 log-sum-exp. Logits are divided by the sampling
temperature, so that trainer and sampler speak of the same distribution.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlft.ops import kl

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
  b, t, d = hidden.shape
  flat, targets = hidden[:, :-1].reshape(-1, d), tokens[:, 1:].reshape(-1)

  def score(part):
    states, chosen = part
    return _scored(head(states).astype(jnp.float32) / temperature, chosen)

  parts = _in_chunks(score, head, elements, (flat, targets))
  rows = (p.reshape(b, t - 1) for p in parts)
  log_p, entropy = (jnp.pad(r, ((0, 0), (1, 0))) for r in rows)
  return log_p, entropy


@jax.custom_vjp
def _scored(
    logits: Float[Array, 'N V'], chosen: Int[Array, 'N'],
) -> tuple[Float[Array, 'N'], Float[Array, 'N']]:
  """log p of the chosen ones, and the entropy; the gradient in one pass."""
  return _score(logits, chosen)[0]


def _score(logits, chosen):
  log_p = jax.nn.log_softmax(logits, axis=-1)
  picked = jnp.take_along_axis(log_p, chosen[:, None], axis=-1)[:, 0]
  entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
  return (picked, entropy), (log_p, chosen, entropy)


def _score_back(kept, changes):
  # d picked / d logit = 1[chosen] - p;  d entropy / d logit = -p (log p + H)
  log_p, chosen, entropy = kept
  by_picked, by_entropy = (x[:, None] for x in changes)
  here = jnp.arange(log_p.shape[-1])[None] == chosen[:, None]
  spread = by_picked + by_entropy * (log_p + entropy[:, None])
  return jnp.where(here, by_picked, 0.0) - jnp.exp(log_p) * spread, None


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
  b, t, d = hidden.shape

  def score(part):
    states, ref_states = part
    return kl.exact(head(states), ref_head(ref_states))

  parts = _in_chunks(score, head, elements, (
      hidden[:, :-1].reshape(-1, d), ref_hidden[:, :-1].reshape(-1, d)))
  return jnp.pad(parts.reshape(b, t - 1), ((0, 0), (1, 0)))


def _in_chunks(score: Callable, head: Callable, elements: int, rows):
  """score over N rows, so many at a time that logits stay under `elements`."""
  n, d = rows[0].shape
  size = jax.eval_shape(head, jax.ShapeDtypeStruct((1, d), rows[0].dtype))
  chunk = max(1, elements // size.shape[-1])
  if n <= chunk:  # kept for the backward pass: faster, and there is room
    return score(rows)
  extra = -n % chunk
  cut = jax.tree.map(
      lambda x: jnp.pad(
          x, ((0, extra),) + ((0, 0),) * (x.ndim - 1)).reshape(
              -1, chunk, *x.shape[1:]), rows)
  return jax.tree.map(
      lambda x: x.reshape(-1)[:n], jax.lax.map(jax.checkpoint(score), cut))
