"""Analyses of the parameters in the loop of a run, on the devices they are on.

`config.analyses = dict(rotation=dict(every=100, draws=2))` compares the policy
with the run's own step 0 after every 100th step and after the last: `every`
and `steps` say when, all else are keywords of the analysis's `analyse()`. Its
rows go to RUN_DIR/analyses/NAME.jsonl; what it cost is in metrics.jsonl, as
NAME_seconds of the same step.
"""
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from rlft import ledger, parts
from rlft.adapters import lora
from rlft.training import metrics, store

OURS = (  # not the config's to say
    'after', 'before', 'cache', 'checkpoints', 'mesh', 'name', 'null_after',
    'null_before', 'stored')


class Analysis(NamedTuple):
  """One entry of the section `analyses`."""
  name: str
  steps: frozenset[int]  # where it is due
  rows: Callable[[PyTree, PyTree], list[dict]]  # (base, policy) -> rows


def bind(name: str, steps: Collection[int], **options: Any) -> Analysis:
  """An analysis with its keywords filled in.

  Raises ValueError for an unknown one, a keyword that it does not take, or one
  that is no comparison of parameters.
  """
  if not hasattr(parts.load('analyses', name), 'analyse'):
    raise ValueError(
        f'analyses.{name} cannot run in the loop: it has no analyse(); '
        'give it a stage of its own')
  for key in OURS:
    if key in options:
      raise ValueError(
          f'analyses.{name} takes no {key}: a run compares its policy with its '
          'own step 0')
  compare = parts.bind(
      'analyses', 'analyse', name, before='start', after='policy', **options)
  return Analysis(name, frozenset(steps) - {0}, lambda base, policy: compare(
      {'start': base, 'policy': policy})['rows'])


def rehearse(analysis: Analysis, shapes: PyTree) -> None:
  """The analysis of small random parameters of the same names and axes."""
  rng = np.random.default_rng(0)
  small = lambda x: rng.normal(
      size=[min(size, 8) for size in x.shape]).astype(np.float32)
  analysis.rows(*(jax.tree.map(small, shapes) for _ in range(2)))


def recorder(
    run_dir: store.Where, start: int, analyses: Sequence[Analysis],
    base: PyTree,
) -> Callable[[int, PyTree, ledger.Clock], bool]:
  """record(step, params, clock) -> whether any analysis was due, and is done.

  Rows beyond the step `start` are a lost run's and go. What is analysed stays
  where it is; only rows come to the host.
  """
  path = lambda analysis: run_dir / 'analyses' / f'{analysis.name}.jsonl'
  for analysis in analyses:
    metrics.truncate(path(analysis), start)

  def record(step, params, clock):
    due = [analysis for analysis in analyses if step in analysis.steps]
    for analysis in due:
      jax.block_until_ready(params)  # or it would pay for the update, too
      clock.lap('update')
      policy = lora.merge(params)['policy']
      for row in analysis.rows(base, policy):
        metrics.append(path(analysis), {'step': step, **row})
      clock.lap(analysis.name)
    return bool(due)

  return record
