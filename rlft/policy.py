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
from rlft.ops import batching, branches, log_probs, partwise
from rlft.types import Outputs


class Sampled(NamedTuple):
  """Prompts with the completions that the policy wrote after them."""
  tokens: Int[Array, 'B T']  # 'B P' prompts, then 'B N' new; pad after the end
  mask: Bool[Array, 'B T']  # True on sampled tokens, the stop token included
  log_probs: Float[Array, 'B T']  # full softmax at the sampling temperature
  sampling_log_probs: Float[Array, 'B T']  # of what was drawn from: ruled
  steps: Int[Array, '']  # of decoding, in each of which every slot has a token


def forward(
    model: Any, params: PyTree, tokens: Int[Array, 'B T'], *,
    temperature: float = 1.0, prompt: int = 0, group: int = 1,
) -> Outputs:
  """Scores every token; `params` = {'policy': ..., maybe 'critic': ...}.

  Adapters are applied as they are, see `lora.attach`. Without a critic the
  values are zeros, which only an objective that needs one would notice. Where
  the first `prompt` columns are prompt alone and those of `group` rows, one
  after the other, the same, they are computed once for these rows, and nothing
  is scored there: zeros.
  """
  before = max(prompt - 1, 0)  # columns whose states score nothing
  shared = dict(prompt=prompt, group=group)
  wide = lambda x: jnp.pad(
      x, ((0, 0), (before, 0)) + ((0, 0),) * (x.ndim - 2))
  spelled, policy = model.unrolled(lora.variables(params))
  hidden = branches.states(spelled, policy, tokens, **shared)
  log_p, entropy = log_probs.of_tokens(
      lambda h: spelled.apply(policy, h, method='head'), hidden,
      tokens[:, before:], temperature=temperature)
  log_p, entropy, hidden = map(wide, (log_p, entropy, hidden))
  values = jnp.zeros_like(log_p)
  if 'critic' in params:
    values = value_head.values(model, params['critic'], tokens, **shared)
  return Outputs(log_p, entropy, values, hidden)


def _first_largest(scores: Float[Array, 'B V']) -> Int[Array, 'B']:
  """argmax; its pair of reductions is four times as slow on CPUs."""
  best = jnp.max(scores, axis=-1, keepdims=True)
  n = scores.shape[-1]
  places = jnp.where(scores == best, jnp.arange(n), n - 1)
  return jnp.min(places, axis=-1).astype(jnp.int32)


def _choose(
    logits: Float[Array, 'B V'], keys: Key[Array, 'B'], n: Int[Array, 'B'], *,
    temperature: float, rule: Callable | None,
) -> tuple[Int[Array, 'B'], Float[Array, 'B'], Float[Array, 'B']]:
  """A row's n-th token, its log-prob before the rule and as it was drawn."""
  logits = logits / (temperature if temperature > 0 else 1.0)
  ruled = logits if rule is None else rule(logits)
  noise = 0.0
  if temperature > 0:
    noise = jax.vmap(
        lambda key, n: jax.random.gumbel(
            jax.random.fold_in(key, n), logits.shape[-1:]))(keys, n)
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
    prompts: Int[Array, 'U P'],
    keys: Key[Array, 'B'],
    *,
    max_new_tokens: int,
    stops: Sequence[int],
    pad: int = 0,
    temperature: float = 1.0,
    rule: Callable | None = None,
    of: Int[Array, 'B'] | None = None,
    slots: int = 0,
    parts: int = 1,
) -> Sampled:
  """Completes left-padded prompts with a KV cache; stops when all have ended.

  `keys` is one key per row, and token n of a row uses fold_in(key, n): how rows
  are split into batches does not change the text. Temperature 0 is greedy (its
  log-probs are those at temperature 1, its sampling log-probs 0). A row of
  pads only is not sampled. Any token of `stops` ends its row. `rule` maps
  logits at the temperature to logits, -inf for what must not be drawn.

  `of` says which prompt each row has, -1 for none; rows that share one have it
  computed once. Without it, row i has prompt i. `slots` rows are decoded at
  once, 0 being all; in the place of one that has ended comes the next
  (`ops/batching.py`). Rows, prompts and slots are cut into `parts` equal parts,
  each of which has what it needs, and `of` counts from its part's first prompt:
  on a mesh no cache is sent.
  """
  model, variables = model.decoding({'params': params['policy']})
  rows = len(keys)
  slots = min(slots or rows, rows)
  own = of is None  # a prompt for every row
  of = partwise.numbers(rows, parts) if own else of
  cache = model.apply(variables, *prompts.shape, method='empty_cache')
  hidden, cache = model.apply(variables, prompts, cache)
  hidden, empty = hidden[:, -1], jnp.all(prompts == pad, axis=1)

  def draw(state, hidden):
    token, full, drawn = _choose(
        model.apply(variables, hidden, method='head'),
        partwise.take(keys, state.requests, parts), state.texts.sizes,
        temperature=temperature, rule=rule)
    return state.wrote(token, full, drawn, stops)

  def begin(requests, before):
    found, states, dead = cache, hidden, empty
    if not own or slots < rows:
      which = partwise.take(of, requests, parts)
      found = cache.taken(which, parts)
      states = partwise.take(hidden, which, parts)
      dead = (which < 0) | partwise.take(empty, which, parts)
    return draw(batching.Slots.opened(
        found, requests, dead, before, most=max_new_tokens, pad=pad), states)

  def step(state):
    hidden, cache = model.apply(
        variables, state.last(pad), state.cache._replace(index=state.column))
    return draw(state._replace(cache=cache), hidden[:, 0])

  texts, steps = batching.run(
      begin, step, requests=rows, slots=slots, parts=parts, pad=pad)
  given = jnp.where((of < 0)[:, None], pad, partwise.take(prompts, of, parts))
  wrote = jnp.arange(max_new_tokens)[None] < texts.sizes[:, None]
  after = lambda x: jnp.pad(x, ((0, 0), (prompts.shape[1], 0)))
  return Sampled(
      jnp.concatenate([given, texts.tokens], axis=1), after(wrote),
      after(texts.log_probs), after(texts.sampling_log_probs), steps)
