"""One sentence per finding, generated from the summary's numbers."""
from typing import Any

from rlft.report.verdicts import percent, points


def sentences(summary: dict[str, Any]) -> list[dict[str, str]]:
  """{heading, sentence} for forgetting, restoration and RL, in this order."""
  where = size(summary['model'])
  return [{'heading': heading, 'sentence': f'{where}: {text(summary)}'}
          for heading, text in (('Forgetting', _forgetting),
                                ('Restoration', _restoration),
                                ('Reinforcement learning', _rl))]


def size(model: dict[str, Any]) -> str:
  """The size that every number is stated with."""
  count = model.get('parameters')
  if not count:
    return f'{model.get("name") or "model"}, size not recorded'
  for unit, scale in (('B', 1e9), ('M', 1e6), ('k', 1e3)):
    if count >= scale / 10:
      return f'{count / scale:.3g} {unit} parameters'
  return f'{count} parameters'


def _forgetting(summary):
  sft = summary['sft']
  name = sft['objective']
  points_at = {p['step']: p for p in sft['curve'] if p['ood']}
  if len(points_at) < 2:
    return f'{name} was not run or has fewer than two OOD evaluations.'
  peak, last = sft['peak_ood_step'], sft['last_step']
  top, end = points_at[peak], points_at[last]
  begin = top if peak != last else points_at[min(points_at)]
  held = '' if not (begin['id'] and end['id']) else (
      f', while ID success goes from {percent(begin["id"]["success"])} to '
      f'{percent(end["id"]["success"])}')
  if peak == last:
    return (f'OOD success is highest at the last {name} step ({last}, '
            f'{percent(end["ood"]["success"])}): nothing is forgotten{held}.')
  return (f'OOD success falls from {percent(top["ood"]["success"])} at '
          f'{name} step {peak} to {percent(end["ood"]["success"])} at step '
          f'{last} (a loss of {points(sft["forgetting"], "")}; with the peak '
          'cross-fitted, so not flattered by its choice, '
          f'{points(sft["forgetting_cross_fitted"], "")}){held}.')


def _restoration(summary):
  best = summary['best_edit']
  if not summary['restoration']:
    return 'no weights were edited.'
  if best is None:
    return ('no edit can be compared with interpolation at equal ID: '
            f'{_why_none(summary)}.{_as_far(summary)}')
  row = next(r for r in summary['restoration'] if r['edit'] == best['edit'])
  over = best['over_interpolation']
  word = ('beats' if over['low'] > 0 else
          'is worse than' if over['high'] < 0 else
          'does not differ from')
  return (f'`{best["edit"]}` (best of the {best["tried"]} that have an '
          'interpolation of equal ID; '
          f'{best["not_comparable"]} others have none) reaches OOD '
          f'{percent(row["ood"]["success"])} at ID '
          f'{percent(row["id"]["success"])} and {word} plain interpolation at '
          f'equal ID ({points(over)}, corrected for choosing the best).'
          f'{_as_far(summary)}')


def _why_none(summary):
  """Why no edit stands beside the interpolation."""
  told = [r for r in summary['restoration'] if r.get('over_interpolation_why')]
  return (f'no control has more ID than an edit and another less, for any of '
          f'{len(told)} edits') if told else 'the control path is missing'


def _as_far(summary):
  """Edits against the interpolation that goes exactly as far."""
  told = [(row['edit'], control['ood'], control['id'])
          for row in summary['restoration'] for control in row['matched']
          if control['control'].startswith('interpolate') and control['ood']]
  return ''.join(f' Against interpolation of the same distance `{edit}` has '
                 f'OOD {points(ood)} and ID {points(kept)}.'
                 for edit, ood, kept in told)


def _rl(summary):
  runs = [r for r in summary['rl'] if r['effect']['ood']]
  if not runs:
    return 'no RL run has evaluations paired with its start.'
  up = [r for r in runs if r['effect']['ood']['low'] > 0]
  down = [r for r in runs if r['effect']['ood']['high'] < 0]
  best = max(runs, key=lambda r: r['effect']['ood']['mean'])
  peak = {p['step']: p['ood'] for p in summary['sft']['curve']}.get(
      summary['sft']['peak_ood_step'])
  top = max((r['curve'][-1]['ood']['success'] for r in runs
             if r['curve'][-1]['ood']), default=None)
  against = '' if not peak or top is None else (
      f' The best RL end has {percent(top)}, the '
      f'{summary["sft"]["objective"]} peak '
      f'{percent(peak["success"])}.')
  return (f'of {len(runs)} start{"s" * (len(runs) > 1)}, RL raises OOD success '
          f'from {len(up)} and lowers it from {len(down)} (interval clear of '
          f'0); best from step {best["from_step"]}: '
          f'{points(best["effect"]["ood"])}.{against}')
