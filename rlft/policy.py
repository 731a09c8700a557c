"""What a model is to the rest of the library: scores tokens, samples tokens.

Everything is a pure function of `model` (a flax module, used functionally) and
its parameters.
"""
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from rlft.adapters import lora, value_head
from rlft.ops import log_probs
from rlft.types import Outputs


class Sampled(NamedTuple):
  """Prompts with the completions that the policy wrote after them."""
  tokens: Int[Array, 'B T']  # 'B P' prompts, then 'B N' new; pad after the end
  mask: Bool[Array, 'B T']  # True on sampled tokens, the stop token included
  log_probs: Float[Array, 'B T']  # full softmax at the sampling temperature
  sampling_log_probs: Float[Array, 'B T']  # of what was drawn from: ruled


def forward(
    model: Any, params: PyTree, tokens: Int[Array, 'B T'], *,
    temperature: float = 1.0,
) -> Outputs:
  """Scores every token; `params` = {'policy': ..., maybe 'critic': ...}.

  Adapters are applied as they are, see `lora.attach`. Without a critic the
  values are zeros, which only an objective that needs one would notice.
  """
  model, policy = model.unrolled(lora.variables(params))
  hidden, _ = model.apply(policy, tokens)
  log_p, entropy = log_probs.of_tokens(
      lambda h: model.apply(policy, h, method='head'), hidden, tokens,
      temperature=temperature)
  values = jnp.zeros_like(log_p)
  if 'critic' in params:
    values = value_head.values(model, params['critic'], tokens)
  return Outputs(log_p, entropy, values, hidden)


def _first_largest(scores: Float[Array, 'B V']) -> Int[Array, 'B']:
  """argmax; its pair of reductions is four times as slow on CPUs."""
  best = jnp.max(scores, axis=-1, keepdims=True)
  n = scores.shape[-1]
  places = jnp.where(scores == best, jnp.arange(n), n - 1)
  return jnp.min(places, axis=-1).astype(jnp.int32)


def _choose(
    logits: Float[Array, 'B V'], keys: Key[Array, 'B'], n: Int[Array, ''], *,
    temperature: float, rule: Callable | None,
) -> tuple[Int[Array, 'B'], Float[Array, 'B'], Float[Array, 'B']]:
  """Token n of every row, its log-prob before the rule and as it was drawn."""
  logits = logits / (temperature if temperature > 0 else 1.0)
  ruled = logits if rule is None else rule(logits)
  noise = 0.0
  if temperature > 0:
    noise = jax.vmap(
        lambda key: jax.random.gumbel(
            jax.random.fold_in(key, n), logits.shape[-1:]))(keys)
  token = _first_largest(ruled + noise)

  def scored(logits):
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return jnp.take_along_axis(log_p, token[:, None], axis=-1)[:, 0]

  full = scored(logits)
  if temperature == 0:  # what greedy draws from has one token
    return token, full, jnp.zeros_like(full)
  return token, full, full if rule is None else scored(ruled)


def sample(
    model: Any,
    params: PyTree,
    prompts: Int[Array, 'B P'],
    keys: Key[Array, 'B'],
    *,
    max_new_tokens: int,
    stops: Sequence[int],
    pad: int = 0,
    temperature: float = 1.0,
    rule: Callable | None = None,
) -> Sampled:
  """Completes left-padded prompts with a KV cache; stops when all have ended.

  `keys` is one key per row, and token n of a row uses fold_in(key, n): how rows
  are split into batches does not change the text. Temperature 0 is greedy (its
  log-probs are those at temperature 1, its sampling log-probs 0). A row of
  pads only is not sampled. Any token of `stops` ends its row. `rule` maps
  logits at the temperature to logits, -inf for what must not be drawn.
  """
  model, variables = model.decoding({'params': params['policy']})
  rows, width = prompts.shape
  ending = jnp.asarray(stops, jnp.int32)

  def write(carry, hidden):
    n, done, tokens, mask, log_p, drawn_log_p, cache = carry
    token, full, drawn = _choose(
        model.apply(variables, hidden, method='head'), keys, n,
        temperature=temperature, rule=rule)
    token = jnp.where(done, pad, token)
    at = (0, width + n)
    put = jax.lax.dynamic_update_slice
    tokens = put(tokens, token[:, None], at)
    mask = put(mask, ~done[:, None], at)
    log_p = put(log_p, jnp.where(done, 0.0, full)[:, None], at)
    drawn_log_p = put(drawn_log_p, jnp.where(done, 0.0, drawn)[:, None], at)
    done = done | jnp.any(token[:, None] == ending[None], axis=1)
    return n + 1, done, tokens, mask, log_p, drawn_log_p, cache, token

  def step(carry):
    *carry, token = carry
    cache = carry[-1]
    hidden, cache = model.apply(variables, token[:, None], cache)
    return write((*carry[:-1], cache), hidden[:, 0])

  cache = model.apply(variables, rows, width, method='empty_cache')
  hidden, cache = model.apply(variables, prompts, cache)
  grow = ((0, 0), (0, max_new_tokens))
  first = write((
      jnp.zeros((), jnp.int32),
      jnp.all(prompts == pad, axis=1),
      jnp.pad(prompts, grow, constant_values=pad),
      jnp.zeros((rows, width + max_new_tokens), bool),
      jnp.zeros((rows, width + max_new_tokens)),
      jnp.zeros((rows, width + max_new_tokens)),
      cache.grown(max_new_tokens),
  ), hidden[:, -1])
  _, _, tokens, mask, log_p, drawn_log_p, _, _ = jax.lax.while_loop(
      lambda c: (c[0] < max_new_tokens) & ~jnp.all(c[1]), step, first)
  return Sampled(tokens, mask, log_p, drawn_log_p)
