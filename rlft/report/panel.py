"""Table: the evaluations beside greedy ID and OOD success, over SFT steps.

Rule and sampler apart (2 x 2), greedy against sampled, five tries with the
verifier's feedback against five independent samples, hands that were trained
on, and the loss on the oracle's completions.
"""
from typing import Any

from rlft.ops import pass_at_k
from rlft.report import curves, files, pairs, statistics
from rlft.report.tables import Tables

SPLITS = ('id', 'ood')
CELLS = {  # rule, sampler -> the evaluation
    ('id', 'id'): 'id', ('id', 'ood'): 'id_rule_ood_sampler',
    ('ood', 'id'): 'ood_rule_id_sampler', ('ood', 'ood'): 'ood'}
WAYS = {  # ending of the evaluation's name -> what it is
    '': 'greedy', '_sampled': 'sampled (temperature 1)',
    '_tries5': 'within 5 tries, with feedback',
    '_independent5': 'any of 5 independent samples', '_seen': 'greedy, seen '
    'hands'}
GAPS = {  # differences on the same hands
    'sampled_minus_greedy': ('_sampled', ''),
    'tries5_minus_independent5': ('_tries5', '_independent5')}
LOSSES = {  # nats per token
    'reference_nll': 'NLL of the oracle', 'number_nll': 'the same, its number '
    'field', 'kl_to_base_fixed': 'KL to the base on the oracle\'s completions',
    'entropy': 'entropy along the policy\'s samples'}


def by_step(tables: Tables) -> list[dict[str, Any]]:
  """What every SFT step was asked, one dict per step.

  {step, success: evaluation -> split, differences: {id, ood} -> name ->
  contrast, pass_at_k and majority_at_k: {id, ood} -> list over k, losses:
  name -> {id, ood}}. pass_at_k is there where the samples were recorded one by
  one; the success of `_independent5` is pass@5 in any case.
  """
  rows = statistics.rows_of(tables, 'sft')
  names = list(dict.fromkeys(r['eval'] for r in rows))
  found = []
  for point in statistics.curve(rows, names):
    step = point.pop('step')
    here = [r for r in rows if r['step'] == step]
    found.append({
        'step': step, 'success': {k: v for k, v in point.items() if v},
        'differences': {s: _gaps(here, s, step) for s in SPLITS},
        'pass_at_k': {s: passes(
            [r for r in here if r['eval'] == f'{s}_independent5'])
            for s in SPLITS},
        'majority_at_k': {s: votes(
            [r for r in here if r['eval'] == f'{s}_independent5'])
            for s in SPLITS},
        'losses': {name: {s: statistics.mean_over_rows(
            [r for r in here if r['eval'] == s], name) for s in SPLITS}
            for name in LOSSES}})
  return found


def passes(rows: list[dict]) -> list[dict] | None:
  """[{k, mean, low, high, ...}] for k = 1, 2, ...; None if not recorded."""
  if not rows or any(r['wins'] is None for r in rows):
    return None
  likely = [pass_at_k.estimate(r['wins']) for r in rows]
  return [{'k': k + 1} | pairs.contrast([{
      r['seed']: pairs.Hands(at[k], r['problems'])
      for r, at in zip(rows, likely, strict=True)}], [1])
      for k in range(min(map(len, likely)))]


def votes(rows: list[dict]) -> list[dict] | None:
  """[{k, mean}] over seeds, for the k of all; None if not recorded."""
  each = []
  for row in rows:
    told = row.get('majority_at_k')
    told = told if isinstance(told, list) else []
    each.append({v['k']: v['mean'] for v in told if isinstance(v, dict) and all(
        files.number(v.get(key)) is not None for key in ('k', 'mean'))})
  shared = set.intersection(*map(set, each)) if each else set()
  return [{'k': k, 'mean': sum(at[k] for at in each) / len(each)}
          for k in sorted(shared)] or None


def figure(tables: Tables) -> dict[str, Any] | None:
  """`by_step` with the names to show; None if only ID and OOD were asked."""
  points = by_step(tables)
  asked = {name for p in points for name in p['success']}
  if asked <= set(SPLITS):
    return None
  curve = statistics.curve(statistics.rows_of(tables, 'sft'))
  rule = {'id': 'ID rule', 'ood': 'OOD rule'}
  return {
      'title': 'Rule and sampler apart; sampled, and with more tries',
      'note': f'{curves.count(curve)}; {curves.interval(tables)} in '
              'brackets, differences paired. '
              'Sampled at temperature 1. Nats are per token and, like the '
              'majority of k samples, without an interval.',
      'losses': [{'key': k, 'label': f'{v}, nats per token'}
                 for k, v in LOSSES.items() if any(
                     p['losses'][k][s] is not None
                     for p in points for s in SPLITS)],
      'cells': [{'rule': rule[r], 'sampler': s.upper(), 'eval': name}
                for (r, s), name in CELLS.items()],
      'ways': [{'ending': k, 'label': v} for k, v in WAYS.items()
               if any(f'{s}{k}' in asked for s in SPLITS)],
      'steps': points}


def _gaps(rows, split, step):
  """The paired differences of one split at one step, None where not asked."""
  return {name: pairs.difference(*(
      statistics.solved(rows, f'{split}{end}', step) for end in ends))
      for name, ends in GAPS.items()}
