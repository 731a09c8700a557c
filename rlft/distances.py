"""How far a policy is from an oracle and from its base, in nats.

  reference_nll     of the oracle's completions, a token
  number_nll        the same, of their tokens before the formula; None: no token
  kl_to_base        exact KL(policy || base) a token, along the policy's own
                    samples at temperature 1; also per completion
  entropy           of the policy a token, along the same samples
  kl_to_base_fixed  exact KL(policy || base) a token of the oracle's
                    completions: one text for every policy, so that SFT and RL
                    can be compared where their own samples differ

All tokens of all completions weigh the same.
"""
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int

from rlft import episodes, policy
from rlft.envs import Environment
from rlft.ops import log_probs, masked, sharding
from rlft.tokenizer import Tokenizer
from rlft.types import Task


class Text(NamedTuple):
  """The oracle's completions after their prompts, right-padded."""
  tokens: Int[np.ndarray, 'B T']
  mask: Bool[np.ndarray, 'B T']  # the completions
  number: Bool[np.ndarray, 'B T']  # their tokens before the formula


@functools.lru_cache
def scorer(model: Any) -> Callable:
  """Sums and counts of log-probs under two masks, compiled once a model."""

  @jax.jit
  def score(params, tokens, mask, number):
    tokens, mask, number = sharding.rows((tokens, mask, number))
    out = policy.forward(model, params, tokens).log_probs
    return sharding.everywhere((
        masked.total(out, mask), mask.sum(),
        masked.total(out, number), number.sum()))

  return score


@functools.lru_cache
def spreader(model: Any) -> Callable:
  """Sum of the entropy under a mask, and its count."""

  @jax.jit
  def score(params, tokens, mask):
    tokens, mask = sharding.rows((tokens, mask))
    out = policy.forward(model, params, tokens).entropy
    return sharding.everywhere((masked.total(out, mask), mask.sum()))

  return score


@functools.lru_cache
def comparer(model: Any) -> Callable:
  """Sum of the exact KL(params || base) under a mask, and its count."""

  @jax.jit
  def score(params, base, tokens, mask):
    tokens, mask = sharding.rows((tokens, mask))

    def read(p):
      variables = {'params': p['policy']}
      hidden, _ = model.apply(variables, tokens)
      return lambda h: model.apply(variables, h, method='head'), hidden
    exact = log_probs.divergence(*read(params), *read(base))
    return sharding.everywhere((masked.total(exact, mask), mask.sum()))

  return score


def summed(score: Callable, arrays: Sequence[np.ndarray], rows: int
           ) -> np.ndarray:
  """What `score` gives of so many rows at a time, added up."""
  return np.sum([np.array(score(*(a[at:at + rows] for a in arrays)), float)
                 for at in range(0, len(arrays[0]), rows)], axis=0)


def written(
    world: Environment, tasks: Sequence[Task], tokenizer: Tokenizer) -> Text:
  """The oracle's completions of these tasks."""
  found = []
  for task in tasks:
    answer = world.demonstrate(task)
    tokens, mask = episodes.transcript(tokenizer, task, (), answer)
    # completion() also gives its end; a template may trim the answer's start
    head = len(tokenizer.completion(stated(answer))) - 1
    start = mask.index(True)
    number = [start <= i < start + head for i in range(len(tokens))]
    found.append((tokens, mask, number))
  length = episodes.width_of(max(len(row[0]) for row in found))
  return Text(*(
      episodes.pack(column, length=length, fill=fill, dtype=dtype)
      for column, fill, dtype in zip(
          zip(*found, strict=True), (tokenizer.pad, False, False),
          (np.int32, bool, bool), strict=True)))


def stated(answer: str) -> str:
  """An oracle's answer up to its formula: the numbers that it states."""
  head, formula, _ = answer.partition('"formula"')
  return head if formula else answer.partition(':')[0]


def oracle(model: Any, text: Text, rows: int) -> Callable:
  """nll(params): the oracle's completions, whole and up to the formula."""
  score = scorer(model)

  def run(params):
    total, count, numbers, counted = summed(functools.partial(
        score, {'policy': params['policy']}), text, rows)
    return {'reference_nll': -total / count,
            'number_nll': -numbers / counted if counted else None}

  return run


def fixed(model: Any, text: Text, base_params: Any, rows: int) -> Callable:
  """kl(params): exact KL(policy || base) a token of the oracle's completions.
  """
  score = comparer(model)

  def run(params):
    total, count = summed(functools.partial(
        score, {'policy': params['policy']},
        {'policy': base_params['policy']}), (text.tokens, text.mask), rows)
    return {'kl_to_base_fixed': total / count}

  return run


def sampled(
    model: Any, tokenizer: Tokenizer, world: Environment,
    tasks: Sequence[Task], base_params: Any, max_new_tokens: int, rows: int,
) -> Callable:
  """kl(params): the entropy along samples, and KL(policy || base) unless None.
  """
  complete = episodes.completer(
      model, pad=tokenizer.pad, stops=tokenizer.stops,
      max_new_tokens=max_new_tokens, temperature=1.0,
      rows=rows)
  length = episodes.width_of(max(
      len(tokenizer.opening(t.prompt)) + max_new_tokens for t in tasks))
  spread, compare = spreader(model), comparer(model)

  def run(params):
    played = episodes.play(
        world.respond, tasks, complete, params, tokenizer, jax.random.key(1))
    arrays = (
        episodes.pack([e.tokens for e in played], length=length,
                      fill=tokenizer.pad, dtype=np.int32),
        episodes.pack([e.mask for e in played], length=length, fill=False,
                      dtype=bool))
    own = {'policy': params['policy']}
    total, count = summed(functools.partial(spread, own), arrays, rows)
    found = {'entropy': total / max(count, 1)}
    if base_params is None:
      return found
    total, count = summed(functools.partial(
        compare, own, {'policy': base_params['policy']}), arrays, rows)
    return found | {'kl_to_base': total / max(count, 1),
                    'kl_to_base_per_completion': total / len(played)}

  return run
