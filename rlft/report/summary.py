"""summary.json: the study's numbers for a machine.

Sections at the top pool over seeds (counts summed; rotation rows and distances
averaged); `by_seed` holds the same sections for each seed alone. Of a rate,
`low` and `high` are Wilson's on the pooled counts, as if all hands of all
seeds were independent; `cluster_low` and `cluster_high` are the bootstrap's
over `problems` (hands of one multiset are one problem) and seeds. Differences
are means over seeds with a paired bootstrap of that kind. `comparison`, in a
study that declares one, is `arms.compared`. Rates and differences of rates are
in [0, 1] and [-1, 1]; angles in radians.
"""
import math
from typing import Any

from rlft.report import (
    arms,
    claims,
    edits,
    optimisation,
    pairs,
    panel,
    statistics,
)
from rlft.report.tables import Tables

LABELS = ('layer', 'module', 'stage', 'role', 'seed', 'from_step',
          'comparison', 'target')


def build(tables: Tables, about: dict[str, Any]) -> dict[str, Any]:
  """The whole summary, JSON-able and without non-finite numbers."""
  seeds = statistics.seeds(tables)
  compared = arms.compared(tables)
  return clean({
      'model': about['model'],
      'seeds': seeds,
      **sections(tables),
      **({'comparison': compared} if compared else {}),
      'best_edit': edits.best(
          statistics.about(tables['restoration'], 'sft')),
      'claims': claims.table(tables),
      'wall_seconds': {s['name']: s['seconds'] for s in tables['stages']
                       if s['seconds'] is not None},
      'stages': [{k: s[k] for k in ('name', 'role', 'seed', 'from_step',
                                    'state')} for s in tables['stages']],
      'by_seed': {str(seed): sections(statistics.of_seed(tables, seed))
                  for seed in seeds},
      'warnings': [*about['warnings'], *tables['warnings']]})


def sections(tables: Tables) -> dict[str, Any]:
  """What is measured: SFT, RL, rotation and restoration."""
  rotations = rotation(tables)
  restorations = {name: edits.compare(rows) for name, rows in
                  statistics.groups(tables['restoration']).items()}
  found = {
      'sft': sft(tables),
      'rl': [_from(tables, start) for start in statistics.starts(tables)],
      'rl_kl': [_from(tables, start, 'rl_kl')
                for start in statistics.starts(tables, 'rl_kl')],
      'ppo': optimisation.runs(tables),
      'panel': panel.by_step(tables),
      'rotation': next(iter(rotations.values()), []),
      'restoration': next(iter(restorations.values()), [])}
  # More than one comparison: the change of SFT is above, all are here.
  if len(rotations) > 1:
    found['rotation_by_group'] = rotations
  if len(restorations) > 1:
    found['restoration_by_group'] = restorations
  return found


def sft(tables: Tables) -> dict[str, Any]:
  """The SFT curve, its OOD peak and what is lost from there to the end."""
  rows = statistics.rows_of(tables, 'sft')
  steps = statistics.common_steps(rows, 'ood')
  peak = statistics.peak_step(rows)
  last = statistics.solved(rows, 'ood', steps[-1]) if steps else {}
  lost = steps and pairs.difference(
      statistics.solved(rows, 'ood', peak), last)
  fitted = steps and pairs.difference(statistics.sft_peak(tables), last)
  return {'objective': statistics.method(tables),
          'curve': statistics.curve(rows), 'peak_ood_step': peak,
          'last_step': steps[-1] if steps else None,
          'forgetting': lost or None,
          'forgetting_cross_fitted': fitted or None}


def rotation(tables: Tables) -> dict[str, list[dict]]:
  """Rows averaged over seeds, by group; the change of SFT comes first."""
  found = {}
  for name, rows in statistics.groups(tables['rotation']).items():
    cells = {}
    for row in rows:
      cells.setdefault((row['layer'], row['module']), []).append(row)
    found[name] = [_averaged(same) for same in cells.values()]
  return found


def clean(value: Any) -> Any:
  """The same without NaN and infinities: null, and a word why beside it."""
  if isinstance(value, dict):
    lost = {f'{key}_why': f'not a finite number ({v})'
            for key, v in value.items() if _infinite(v)}
    return {str(key): clean(v) for key, v in value.items()} | lost
  if isinstance(value, list | tuple):
    return [clean(v) for v in value]
  return None if _infinite(value) else value


def _infinite(value):
  return isinstance(value, float) and not math.isfinite(value)


def _from(tables, start, role='rl'):
  """The RL curve from one start and what the whole budget changed."""
  rows = statistics.rows_of(tables, role, start)
  effect = {name: pairs.difference(
      statistics.rl_end(tables, start, name, role),
      statistics.rl_start(tables, start, name, role))
      for name in ('id', 'ood')}
  return {'from_step': start, 'curve': statistics.curve(rows),
          'effect': effect}


def _averaged(rows):
  columns = [key for key in rows[0] if key not in LABELS]
  return {'layer': rows[0]['layer'], 'module': rows[0]['module']} | {
      key: statistics.mean_over_rows(rows, key) for key in columns} | {
          'seeds': len(rows)}
