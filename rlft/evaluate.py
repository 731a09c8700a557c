"""Success on fixed tasks, with intervals, failures by kind and distances."""
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rlft import distances, envs, episodes, outcomes
from rlft import verifiers as processes
from rlft.ops import intervals, majority, pass_at_k
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
    slots: int = 0, decoding: tuple = (), nll: bool = False, kl: int = 0,
    kl_fixed: int = 0, entropy: int = 0, base_params: Any = None,
    keep: int = 24, steps: Sequence[int] = (),
    against_independent: bool = False, verifiers: dict[str, Any] | None = None,
) -> Evaluation:
  """Prepares an evaluation on `n` fixed tasks of an environment.

  `tries` is the number of answers per task with the verifier's feedback in
  between; `independent` the number of fresh ones without (solved if any is),
  of which pass@k and majority@k are told, too. `against_independent` also draws
  samples without feedback, and tells how much `tries` are over as many of those
  (`over_independent`).
  Answers are sampled `rows` at a time, of which `slots` are decoded at once, 0
  being all. `decoding` has the name and settings of the rule that tokens are
  drawn under. `verifiers=dict(workers=2, deadline=5.0)` judges in other
  processes (`verifiers.py`): who fails there has solved nothing, and is an
  outcome. `nll` also scores the oracle's completions; `kl` is a number of
  tasks on which the exact KL(policy || base) and the entropy are measured along
  the policy's own samples at temperature 1, `entropy` one for the entropy
  alone, and `kl_fixed` one for the KL on the oracle's completions
  (`distances.py`). `keep` samples are written out. With `steps`, the evaluation
  is made at those of a run's evaluated steps only.
  """
  refuse(name, n, decoding, temperature, tries, independent,
         against_independent, dict(kl=kl, kl_fixed=kl_fixed, entropy=entropy))
  world = envs.bind(**env)
  if world.hands is None:
    raise ValueError(f'the environment of {name} has no fixed tasks')
  tasks = world.hands(seed, n)
  problems = numbered(tasks, world.problem)
  complete = episodes.completer(
      model, pad=tokenizer.pad, stops=tokenizer.stops,
      max_new_tokens=max_new_tokens, temperature=temperature, rows=rows,
      slots=slots, decoding=decoding)
  pool = processes.pool(world.respond, verifiers, (), f'evals.{name}.verifiers')
  key = jax.random.key(seed)
  measures = []
  if nll:
    measures.append(distances.oracle(
        model, distances.written(world, tasks, tokenizer), rows))
  if kl or entropy:
    measures.append(distances.sampled(
        model, tokenizer, world, tasks[:kl or entropy],
        base_params if kl else None, max_new_tokens, rows))
  if kl_fixed:
    measures.append(distances.fixed(
        model, distances.written(world, tasks[:kl_fixed], tokenizer),
        base_params, rows))

  def play(params, count, tries):
    return [episodes.play(world.respond, tasks, complete, params, tokenizer,
                          jax.random.fold_in(key, k), tries=tries, pool=pool)
            for k in range(count)]

  def run(params):
    began = time.monotonic()
    played = play(params, independent, tries)
    written = sum(len(e.turns) for group in played for e in group)
    row = {'eval': name, 'tries': tries, 'independent': independent,
           'temperature': temperature,
           **({'decoding': dict(decoding)} if decoding else {}),
           **summarise(played),
           'problems': problems,
           'completions_per_second': written / (time.monotonic() - began)}
    if independent > 1:
      row |= repeated(played, problems, world.answer)
    if against_independent:
      row |= over_independent(
          played[0], play(params, 2 * tries, 1), problems, tries)
    for measure in measures:
      row |= measure(params)
    row['seconds'] = time.monotonic() - began
    return row, [describe(name, e) for e in played[0][:keep]]

  return Evaluation(name, run, frozenset(steps))


def refuse(
    name: str, n: int, decoding: tuple, temperature: float, tries: int,
    independent: int, against_independent: bool, distances: dict[str, int],
) -> None:
  """ValueError for what makes no sense; `distances`: key -> number of tasks."""
  if distances['kl'] and distances['entropy']:
    raise ValueError(f'{name}: kl measures the entropy, too: leave entropy out')
  for key, count in distances.items():
    if count > n:
      raise ValueError(f'{key} is of {count} tasks and {name} has n={n}: set '
                       f'{key} to {n} or fewer, or raise n')
  if decoding and temperature == 0:
    raise ValueError(
        f'the decoding of {name} changes nothing at temperature 0: leave it '
        'out, or set a temperature above 0')
  if tries > 1 and independent > 1:
    raise ValueError(f'{name}: set tries or independent above 1, not both')
  if (independent > 1 or against_independent) and temperature == 0:
    raise ValueError(f'{name}: independent samples need a temperature above 0')
  if against_independent and tries == 1:
    raise ValueError(f'{name}: one try is a sample without feedback: set tries '
                     'above 1, or leave against_independent out')


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
  right = [e.turns[0].parts.get('number_field') for e in first]
  # Several independent samples: which of them solved what, for pass@k.
  each = {'wins': [np.packbits(w).tobytes().hex() for w in wins]} if (
      len(wins) > 1) else {}
  return {
      'n': int(any_win.size),
      'success': float(any_win.mean()),
      'low': low, 'high': high,
      'outcomes': {
          k: v / len(first) for k, v in sorted(counts.items())},
      'number_field': None if None in right else float(np.mean(right)),
      'solved': np.packbits(any_win).tobytes().hex(), **each,
  }


def describe(name: str, episode: episodes.Episode) -> dict:
  """One line of a samples file."""
  last = episode.turns[-1]
  return {
      'eval': name, 'prompt': episode.task.prompt,
      'completion': episode.completions[-1],
      'tries': len(episode.turns),
      'reward': last.reward if math.isfinite(last.reward) else None,
      'outcome': outcomes.named(last)}


def repeated(
    played: Sequence[Sequence[episodes.Episode]], problems: Sequence[int],
    answer: Callable | None,
) -> dict:
  """pass@k and majority@k of independent samples, k = 1, 2, 4, ... and all.

  Each with an interval that draws problems. Without `answer`, (task,
  completion) -> what a vote is for, there is no majority.
  """
  wins = np.array([[solved(e) for e in group] for group in played])
  sizes = sorted({2**i for i in range(len(wins).bit_length())} | {len(wins)})

  def rated(rates, k):
    mean, low, high = intervals.contrast(
        [rates[None]], [np.array(problems)], [1.0])
    return {'k': k, 'mean': mean, 'low': low, 'high': high}

  likely = pass_at_k.estimate(wins)
  found = {'pass_at_k': [rated(likely[k - 1], k) for k in sizes]}
  if answer is not None:
    said = [[answer(e.task, e.completions[-1]) for e in group]
            for group in played]
    found['majority_at_k'] = [
        rated(majority.estimate(said, wins, k), k) for k in sizes]
  return found


def over_independent(
    played: Sequence[episodes.Episode],
    alone: Sequence[Sequence[episodes.Episode]], problems: Sequence[int],
    tries: int,
) -> dict:
  """How much more `tries` with feedback solve than as many samples without.

  `alone` are twice as many samples of each task, each of one try: both halves
  estimate what is solved without feedback, and the difference between them is
  the same measurement where nothing is fed back (`null`). All are shares of the
  tasks, with intervals that draw problems.
  """
  within = np.array([solved(e) for e in played], float)
  wins = np.array([[solved(e) for e in group] for group in alone])
  halves = [half.any(axis=0).astype(float) for half in (
      wins[:tries], wins[tries:])]

  def told(one, other=None):
    values, weights = ([one], [1.0]) if other is None else (
        [one, other], [1.0, -1.0])
    return dict(zip(('mean', 'low', 'high'), intervals.contrast(
        [np.stack(values)], [np.array(problems)], weights), strict=True))

  likely = pass_at_k.estimate(wins)[tries - 1]
  return {'independent_success': told(likely),
          'over_independent': told(within, likely),
          'over_independent_null': told(*halves)}


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
