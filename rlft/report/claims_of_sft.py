"""Claims 1 to 5 and 20: what supervised fine-tuning does to ID and OOD."""
from rlft.ops import intervals
from rlft.report import pairs, statistics, verdicts
from rlft.report.tables import Tables
from rlft.report.verdicts import Claim, Finding, judged, not_tested, points

NO_SFT = 'no SFT run with two evaluated steps and solved hands'
FEW = 30  # hands: fewer leave a conditional rate undecided
LAST = 'the peak is the last step: nothing can have fallen since'
FITTED = ('the cross-fitted peak (each half of the problems scored at the '
          'step that is best on the other half')


def rises_then_falls(tables: Tables) -> Finding:
  rows = statistics.rows_of(tables, 'sft')
  steps = statistics.common_steps(rows, 'ood')
  top = statistics.sft_peak(tables)
  if len(steps) < 2 or not top:
    return not_tested(NO_SFT)
  rise = pairs.difference(top, statistics.solved(rows, 'ood', steps[0]))
  fall = pairs.difference(top, statistics.solved(rows, 'ood', steps[-1]))
  peak = statistics.peak_step(rows)
  if peak == steps[-1]:
    return not_tested(f'{LAST} (step {peak}); cross-fitted rise since step '
                      f'{steps[0]} {points(rise)}')
  return judged(
      rise['low'] > 0 and fall['low'] > 0, fall, 'difference of rates',
      f'fall from {FITTED}; pooled, it is step {peak}) to step {steps[-1]}; '
      f'rise to it since step {steps[0]} {points(rise)}')


def id_climbs(tables: Tables) -> Finding:
  rows = statistics.rows_of(tables, 'sft')
  steps = statistics.common_steps(rows, 'id')
  at = {step: statistics.solved(rows, 'id', step) for step in steps}
  gain = len(steps) > 1 and pairs.difference(at[steps[-1]], at[steps[0]])
  if not gain:
    return not_tested(NO_SFT)
  rate = {p['step']: p['id']['success'] for p in
          statistics.curve(rows, ('id',))}
  dips = []
  for i, step in enumerate(steps[1:], start=1):
    earlier = max(steps[:i], key=rate.get)
    dip = pairs.difference(
        at[step], at[earlier], confidence=1 - .05 / (len(steps) - 1))
    if dip:
      dips.append((dip['mean'], step, earlier, dip))
  worst = min(dips, key=lambda found: found[:3])
  fell = worst[3]['mean'] < 0
  seen = statistics.curve(rows, ('id_seen',))
  also = '' if not seen else (
      f'; on seen hands {verdicts.percent(seen[0]["id_seen"]["success"])} → '
      f'{verdicts.percent(seen[-1]["id_seen"]["success"])}')
  return judged(
      gain['low'] > 0 and worst[0] >= -verdicts.MARGIN and
      all(dip['high'] >= 0 for *_, dip in dips), gain, 'difference of rates',
      f'from step {steps[0]} to {steps[-1]} on held-out hands; '
      f'{"deepest dip" if fell else "no step dips; nearest to one"}: step '
      f'{worst[1]} against {worst[2]}, the best before it, {points(worst[3])} '
      f'({100 * (1 - .05 / (len(steps) - 1)):.1f} % interval){also}')


def rise_is_format(tables: Tables) -> Finding:
  rows = statistics.rows_of(tables, 'sft')
  steps = statistics.common_steps(rows, 'ood')
  peak = statistics.peak_step(rows)
  top = statistics.sft_peak(tables)
  if len(steps) < 2 or not top:
    return not_tested(NO_SFT)
  rise = pairs.difference(top, statistics.solved(rows, 'ood', steps[0]))
  if rise['low'] <= 0:
    return not_tested(
        f'there is no rise to explain: {points(rise)} from step {steps[0]} '
        f'to {FITTED})')
  counts = {s: statistics.effective_counts(rows, 'ood', s) for s in steps}
  valid = {s: (c.get('correct', 0.), sum(c.values()) - c.get('format', 0.))
           for s, c in counts.items()}
  first = next((s for s in steps if valid[s][1] >= FEW), None)
  if first is None or first >= peak:
    return not_tested(
        f'no step before the peak (step {peak}) has {FEW} replies of valid '
        'format')
  mean, low, high = intervals.newcombe(*valid[peak], *valid[first])
  given = {'mean': mean, 'low': low, 'high': high}
  return judged(
      low <= 0, given, 'difference of rates',
      f'rise among replies of valid format from step {first} to the pooled '
      f'peak (step {peak}); among all replies {points(rise)} from step '
      f'{steps[0]} to {FITTED})')


def rule_lock_in(tables: Tables) -> Finding:
  rows = statistics.rows_of(tables, 'sft')
  steps = statistics.common_steps(rows, 'ood')
  peak = statistics.peak_step(rows)
  if len(steps) < 2:
    return not_tested(NO_SFT)
  if peak == steps[-1]:
    return not_tested('OOD peaks at the last step: nothing was forgotten')
  failed = {}
  for step in (peak, steps[-1]):
    counts = statistics.effective_counts(rows, 'ood', step)
    failed[step] = (counts.get('lock_in', 0.),
                    sum(counts.values()) - counts.get('correct', 0.))
    if failed[step][1] < FEW:
      return not_tested(f'fewer than {FEW} independent failures at step {step}')
  low, high = intervals.wilson(*failed[steps[-1]])
  share = {'mean': failed[steps[-1]][0] / failed[steps[-1]][1],
           'low': low, 'high': high}
  mean, low, high = intervals.newcombe(*failed[steps[-1]], *failed[peak])
  rise = {'mean': mean, 'low': low, 'high': high}
  counts = statistics.outcome_counts(rows, 'ood', steps[-1])
  locked = round(counts.get('lock_in', 0))
  failures = round(sum(counts.values()) - counts.get('correct', 0))
  return judged(
      share['low'] > .5 and low > 0, share, 'share',
      f'of {failures} OOD failures at step {steps[-1]}, {locked} are right '
      f'under the ID rule; {points(rise)} since the pooled peak (step {peak})')


def loss_misses_peak(tables: Tables) -> Finding:
  rows = statistics.rows_of(tables, 'sft')
  steps = statistics.common_steps(rows, 'ood')
  best = {}
  for key in ('reference_nll', 'number_nll'):
    losses = {s: statistics.mean_over_rows(
        [r for r in rows if r['eval'] == 'ood' and r['step'] == s], key)
        for s in steps}
    losses = {s: loss for s, loss in losses.items() if loss is not None}
    best[key] = min(losses, key=losses.get) if len(losses) > 1 else None
  step = best['reference_nll']
  if step is None:
    return not_tested('the OOD reference NLL was not measured')
  lost = pairs.difference(
      statistics.sft_peak(tables), statistics.solved(rows, 'ood', step))
  if lost is None:
    return not_tested(NO_SFT)
  peak = statistics.peak_step(rows)
  same = ', the same' if step == peak else ''
  return judged(
      step != peak and lost['low'] > 0, lost, 'difference of rates',
      f'pooled OOD success peaks at step {peak}, the OOD NLL of the oracle is '
      f'least at step {step}{same} (number field: {best["number_nll"]}); the '
      f'number is what choosing by loss gives up against {FITTED})')


def diversity_prevents(tables: Tables) -> Finding:
  falls = {}
  for role in ('sft', 'sft_mixed'):
    rows = statistics.rows_of(tables, role)
    steps = statistics.common_steps(rows, 'ood')
    top = pairs.best_elsewhere(
        {s: statistics.solved(rows, 'ood', s) for s in steps})
    if len(steps) < 2 or not top:
      return not_tested(
          'no SFT run on mixed face rules (a stage with variant mixed_rules)'
          if role == 'sft_mixed' else NO_SFT)
    falls[role] = pairs.difference(
        top, statistics.solved(rows, 'ood', steps[-1]))
    if role == 'sft' and statistics.peak_step(rows) == steps[-1]:
      return not_tested(f'under one rule {LAST} (step {steps[-1]})')
  mixed = falls['sft_mixed']
  return judged(
      falls['sft']['low'] > 0 and mixed['high'] < verdicts.MARGIN, mixed,
      'difference of rates',
      f'fall of OOD under mixed rules from {FITTED}); under one rule '
      f'{points(falls["sft"])}')


CLAIMS = (
    Claim(1, 'OOD success rises, then falls during SFT',
          'The OOD peak is above both the first and the last checkpoint '
          '(intervals above 0; the peak is chosen on the other half of the '
          'problems).', rises_then_falls),
    Claim(2, 'ID success climbs monotonically meanwhile',
          'Last minus first checkpoint is above 0, and no checkpoint is '
          'measured two points below the best earlier one, or below it for '
          'certain (95 % over all checkpoints, Bonferroni).',
          id_climbs),
    Claim(3, 'The early OOD rise is format learning',
          'OOD rises to its peak, but not among replies of valid format '
          '(that difference is not above 0; Newcombe interval at the '
          'effective number of hands).',
          rise_is_format),
    Claim(4, 'OOD forgetting is rule lock-in: failures become right under '
          'the ID rule',
          'At the last checkpoint more than half of the OOD failures are '
          'right under the ID rule (Wilson interval at the effective number '
          'of hands above 50 %) and the share rose since the peak.',
          rule_lock_in),
    Claim(5, 'The loss does not locate the OOD peak',
          'The checkpoint of least OOD NLL of the oracle is below the OOD '
          'peak (peak minus it above 0).', loss_misses_peak),
    Claim(20, 'Rule diversity in SFT prevents the drift',
          'OOD falls from its peak under one rule, and by less than two '
          'points (upper end) under mixed rules.', diversity_prevents),
)
