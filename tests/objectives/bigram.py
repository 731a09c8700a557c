"""A policy that is one table of logits, and a rollout with holes for it.

Its forward pass takes any rows, so a batch can be split and shuffled.
"""
import jax
import jax.numpy as jnp
import numpy as np

from rlft.types import Outputs, Rollout

B, T, V = 6, 7, 5
KEYS = jax.random.split(jax.random.key(3), 8)
NORMAL = jax.random.normal
TOKENS = jax.random.randint(KEYS[0], (B, T), 0, V)
PARAMS = {'logits': NORMAL(KEYS[1], (V, V)), 'values': NORMAL(KEYS[2], (V,))}
TURN_IDS = jnp.array([
    [-1, 0, 0, 0, 0, 0, 0],
    [-1, -1, 0, -1, -1, -1, -1],
    [-1, 0, 0, -1, 1, 1, -1],
    [-1, -1, -1, -1, -1, -1, -1],  # nothing of it counts
    [-1, 0, 0, 0, -1, -1, 1],
    [-1, -1, 0, 0, 0, 0, -1]])
MASK = TURN_IDS >= 0
IDS = jnp.array([4, 2, 4, 2, 4, 2])
REWARDS = jnp.where(MASK & (NORMAL(KEYS[3], (B, T)) > 0.3), jnp.round(
    10 * NORMAL(KEYS[4], (B, T))) / 10, 0.)


def forward(params, tokens):
  """Token t is scored by the logits that token t - 1 chooses."""
  before = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)))
  log_p = jax.nn.log_softmax(params['logits'])[before]
  chosen = jnp.take_along_axis(log_p, tokens[..., None], -1)[..., 0]
  entropy = -(jnp.exp(log_p) * log_p).sum(-1)
  return Outputs(chosen, entropy, params['values'][before], chosen[..., None])


def rollout(*, behaviour=0.0, reference=0.3, **arrays):
  """Sampled by a policy that is so many nats from the table's, per token."""
  own = forward(PARAMS, TOKENS)
  return Rollout(**{**dict(
      tokens=TOKENS, mask=MASK, turn_ids=TURN_IDS, rewards=REWARDS,
      prompt_ids=IDS, values=own.values + 0.5 * NORMAL(KEYS[7], (B, T)),
      log_probs=own.log_probs + behaviour * NORMAL(KEYS[5], (B, T)),
      ref_log_probs=own.log_probs + reference * NORMAL(KEYS[6], (B, T)),
      # of a sampler that rounds otherwise
      sampler_log_probs=own.log_probs + behaviour * NORMAL(KEYS[5], (B, T))
      + 0.2 * NORMAL(KEYS[6], (B, T)),
      truncated=jnp.zeros(B, bool), weights=MASK.astype(float)), **arrays})


def gradient(loss, batch, params=PARAMS, **kwargs):
  """Of a loss to the table of logits."""
  return jax.grad(lambda p: loss(
      forward(p, batch.tokens), batch, **kwargs)[0])(params)['logits']


def reinforce(weights, params=PARAMS):
  """The gradient of -sum of weights * log pi, made by hand, token by token.

  d log softmax(z)[chosen] / dz = one-hot(chosen) - softmax(z).
  """
  tokens, logits = np.asarray(TOKENS), np.asarray(params['logits'], float)
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  grad = np.zeros_like(logits)
  for row, column in zip(*np.nonzero(np.asarray(MASK)), strict=True):
    before = tokens[row, column - 1]
    score = np.eye(V)[tokens[row, column]] - p[before]
    grad[before] -= weights[row, column] * score
  return grad
