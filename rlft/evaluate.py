"""Success on fixed tasks, with intervals, failures by kind and distances."""
import functools
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlft import envs, episodes, outcomes, policy
from rlft.ops import intervals, log_probs, masked, sharding
from rlft.tokenizer import Tokenizer
from rlft.training import disk, metrics, multihost, store
from rlft.types import Task


class Evaluation(NamedTuple):
  """One evaluation, compiled once and run on many parameters."""
  name: str
  run: Callable[[Any], tuple[dict, list[dict]]]  # params -> row, samples
  steps: frozenset[int]  # where it is due; empty: wherever any is


def make(
    name: str, model: Any, tokenizer: Tokenizer, *, env: dict, n: int = 1024,
    seed: int = 0, tries: int = 1, independent: int = 1,
    temperature: float = 0.0, max_new_tokens: int = 20, rows: int = 256,
    decoding: tuple = (), nll: bool = False, kl: int = 0,
    base_params: Any = None, keep: int = 24, steps: Sequence[int] = (),
) -> Evaluation:
  """Prepares an evaluation on `n` fixed tasks of an environment.

  `tries` is the number of answers per task with the verifier's feedback in
  between; `independent` the number of fresh ones without (solved if any is).
  `decoding` has the name and settings of the rule that tokens are drawn under.
  `nll` also scores the oracle's completions; `kl` is a number of tasks on which
  the exact KL(policy || base) is measured along the policy's own samples at
  temperature 1. `keep` samples are written out. With `steps`, the evaluation
  is made at those of a run's evaluated steps only.
  """
  if decoding and temperature == 0:
    raise ValueError(
        f'the decoding of {name} changes nothing at temperature 0: leave it '
        'out, or set a temperature above 0')
  world = envs.bind(**env)
  if world.hands is None:
    raise ValueError(f'the environment of {name} has no fixed tasks')
  if tries > 1 and independent > 1:
    raise ValueError(f'{name}: set tries or independent above 1, not both')
  if independent > 1 and temperature == 0:
    raise ValueError(f'{name}: independent samples need a temperature above 0')
  tasks = world.hands(seed, n)
  problems = numbered(tasks, world.problem)
  complete = episodes.completer(
      model, pad=tokenizer.pad, stops=tokenizer.stops,
      max_new_tokens=max_new_tokens, temperature=temperature, rows=rows,
      decoding=decoding)
  key = jax.random.key(seed)
  reference = oracle(world, tasks, tokenizer, model, rows) if nll else None
  distance = divergence(
      model, tokenizer, world, tasks[:kl], base_params, max_new_tokens,
      rows) if kl else None

  def run(params):
    began = time.monotonic()
    played = [
        episodes.play(world.respond, tasks, complete, params, tokenizer,
                      jax.random.fold_in(key, k), tries=tries)
        for k in range(independent)]
    written = sum(len(e.turns) for group in played for e in group)
    row = {'eval': name, 'tries': tries, 'independent': independent,
           'temperature': temperature,
           **({'decoding': dict(decoding)} if decoding else {}),
           **summarise(played),
           'problems': problems,
           'completions_per_second': written / (time.monotonic() - began)}
    if reference is not None:
      row |= reference(params)
    if distance is not None:
      row |= distance(params)
    return row, [describe(name, e) for e in played[0][:keep]]

  return Evaluation(name, run, frozenset(steps))


def numbered(tasks: Sequence[Task], problem: Callable | None) -> list[int]:
  """Which tasks are one problem in other words, by number; none by default.

  Their outcomes are correlated, so intervals draw problems, not tasks.
  """
  if problem is None:
    return list(range(len(tasks)))
  order: dict[Any, int] = {}
  return [order.setdefault(problem(task), len(order)) for task in tasks]


def solved(episode: episodes.Episode) -> bool:
  """Whether the last turn ended the episode with a correct answer."""
  return 'correct' in episode.turns[-1].parts


def summarise(played: Sequence[Sequence[episodes.Episode]]) -> dict:
  """Success with its Wilson interval, and how the last answers failed."""
  wins = np.array([[solved(e) for e in group] for group in played])
  any_win = wins.any(axis=0)
  first = [e for group in played for e in group]
  counts = Counter(
      outcomes.named(e.turns[-1]) for e in first)
  low, high = intervals.wilson(int(any_win.sum()), any_win.size)
  right = [e.turns[0].parts.get('number_field', math.nan) for e in first]
  # Several independent samples: which of them solved what, for pass@k.
  each = {'wins': [np.packbits(w).tobytes().hex() for w in wins]} if (
      len(wins) > 1) else {}
  return {
      'n': int(any_win.size),
      'success': float(any_win.mean()),
      'low': low, 'high': high,
      'outcomes': {
          k: v / len(first) for k, v in sorted(counts.items())},
      'number_field': float(np.mean(right)),
      'solved': np.packbits(any_win).tobytes().hex(), **each,
  }


def describe(name: str, episode: episodes.Episode) -> dict:
  """One line of a samples file."""
  last = episode.turns[-1]
  return {
      'eval': name, 'prompt': episode.task.prompt,
      'completion': episode.completions[-1],
      'tries': len(episode.turns), 'reward': last.reward,
      'outcome': outcomes.named(last)}


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


def oracle(world, tasks, tokenizer, model, rows) -> Callable:
  """nll(params): the oracle's completions, whole and up to the formula."""
  pairs = []
  for task in tasks:
    answer = world.demonstrate(task)
    tokens, mask = episodes.transcript(tokenizer, task, (), answer)
    # completion() also gives its end; a template may trim the answer's start
    head = len(tokenizer.completion(stated(answer))) - 1
    start = mask.index(True)
    number = [start <= i < start + head for i in range(len(tokens))]
    pairs.append((tokens, mask, number))
  length = episodes.width_of(max(len(p[0]) for p in pairs))
  tokens, mask, number = (
      episodes.pack(column, length=length, fill=fill, dtype=dtype)
      for column, fill, dtype in zip(
          zip(*pairs, strict=True), (tokenizer.pad, False, False),
          (np.int32, bool, bool), strict=True))

  score = scorer(model)

  def run(params):
    sums = np.zeros(4)
    for at in range(0, len(tokens), rows):
      part = slice(at, at + rows)
      sums += np.array(score(
          {'policy': params['policy']}, tokens[part], mask[part],
          number[part]), float)
    return {'reference_nll': -sums[0] / sums[1],
            'number_nll': -sums[2] / max(sums[3], 1)}

  return run


def stated(answer: str) -> str:
  """An oracle's answer up to its formula: the numbers that it states."""
  head, formula, _ = answer.partition('"formula"')
  return head if formula else answer.partition(':')[0]


def divergence(
    model, tokenizer, world, tasks, base_params, max_new_tokens, rows
) -> Callable:
  """kl(params): exact KL(policy || base) per token of the policy's samples."""
  complete = episodes.completer(
      model, pad=tokenizer.pad, stops=tokenizer.stops,
      max_new_tokens=max_new_tokens, temperature=1.0,
      rows=rows)
  length = episodes.width_of(max(
      len(tokenizer.opening(t.prompt)) + max_new_tokens for t in tasks))

  score = comparer(model)

  def run(params):
    played = episodes.play(
        world.respond, tasks, complete, params, tokenizer, jax.random.key(1))
    tokens = episodes.pack([e.tokens for e in played], length=length,
                           fill=tokenizer.pad, dtype=np.int32)
    mask = episodes.pack([e.mask for e in played], length=length, fill=False,
                         dtype=bool)
    total, count = score({'policy': params['policy']},
                         {'policy': base_params['policy']},
                         jnp.asarray(tokens), jnp.asarray(mask))
    return {'kl_to_base': float(total) / max(int(count), 1),
            'kl_to_base_per_completion': float(total) / len(played)}

  return run


def record(
    run_dir: store.Where, step: int, evaluations: Sequence[Evaluation],
    params: Any,
) -> dict[str, dict]:
  """Runs what evals.jsonl lacks at this step; appends rows and samples."""
  log = run_dir / 'evals.jsonl'
  rows = {r['eval']: r for r in multihost.told(
      lambda: metrics.read(log) if store.exists(log) else [])
      if r['step'] == step}
  path = run_dir / 'samples' / f'{step:06d}.jsonl'
  with disk.writing(path):
    store.make(path.parent)
  for evaluation in evaluations:
    if evaluation.name in rows:
      continue  # reached before an interruption
    if evaluation.steps and step not in evaluation.steps:
      continue
    row, some = evaluation.run(params)
    if multihost.leads():
      others = [
          s for s in (metrics.read(path) if path.exists() else ())
          if s['eval'] != evaluation.name]
      lines = ''.join(json.dumps(s) + '\n' for s in others + some)
      with disk.writing(path):
        store.replace(path, lines.encode())
    rows[evaluation.name] = row
    metrics.append(log, {'step': step, **row})
  return rows
