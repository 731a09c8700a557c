"""Claims 13 to 19: what happens to the weights, and what undoes it."""
import numpy as np

from rlft.report import edits, pairs, statistics, verdicts
from rlft.report.tables import Tables
from rlft.report.verdicts import Claim, Finding, judged, not_tested, points

NO_ROTATION = 'no rotation stage'
NO_RESTORATION = 'no restoration stage with the unedited checkpoint (`none`)'
NO_LOSS = 'no OOD success was lost, or the SFT peak saw other hands'
EDGE = .1  # share of directions at either end of the spectrum


def values_hardly_change(tables: Tables) -> Finding:
  rows = statistics.about(tables['rotation'], 'sft')
  found = statistics.excess(rows, 'value_shift', 'value_shift_null')
  if found is None:
    return not_tested(NO_ROTATION)
  shift = statistics.mean_over_rows(rows, 'value_shift')
  null = statistics.mean_over_rows(rows, 'value_shift_null')
  largest = [float(np.max(s['value_shift']))
             for s in statistics.about(tables['spectra'], 'sft')
             if np.size(s.get('value_shift', ()))]
  also = (f'; the one value that changes most does so by {max(largest):.3g} '
          'times itself') if largest else ''
  return judged(
      found['high'] < 0, found, 'relative change',
      'mean |change| / value over the leading 20 % of the values, measured '
      f'minus null; measured {shift:.4f}, null {null:.4f}{also}')


def edges_rotate(tables: Tables) -> Finding:
  ends = {'leading': [], 'trailing': []}
  level = {'leading': [], 'trailing': [], 'middle': []}
  for row in statistics.about(tables['spectra'], 'sft'):
    if not {'cosine', 'cosine_null'} <= set(row):
      continue
    angle, null = (np.arccos(np.clip(np.abs(row[key]), 0, 1))
                   for key in ('cosine', 'cosine_null'))
    width = max(1, round(EDGE * angle.shape[-1]))
    if 2 * width >= angle.shape[-1]:
      continue
    parts = {'leading': slice(None, width), 'trailing': slice(-width, None),
             'middle': slice(width, -width)}
    over = {k: (angle - null)[:, p].mean(axis=1) for k, p in parts.items()}
    for name, part in parts.items():
      level[name].append(angle[:, part].mean())
    for name, found in ends.items():
      found += [(row['seed'], f'{row["module"]} {layer}', float(gap))
                for layer, gap in enumerate(over[name] - over['middle'])]
  if not ends['leading']:
    return not_tested('no rotation of single directions (rotation.npz)')
  found = {name: pairs.mean(gaps) for name, gaps in ends.items()}
  least = min(found.values(), key=lambda f: f['low'])
  degrees = ', '.join(f'{name} {np.degrees(np.mean(values)):.0f}°'
                      for name, values in level.items())
  return judged(
      least['low'] > 0, least, 'radians',
      f'mean angle of a direction: {degrees}; angle over its null, minus '
      f'that of the middle 80 %: leading tenth '
      f'{verdicts.plain(found["leading"])}, trailing tenth '
      f'{verdicts.plain(found["trailing"])} rad; the number is the smaller')


def rotation_dominates(tables: Tables) -> Finding:
  rows = statistics.about(tables['rotation'], 'sft')
  found = statistics.excess(rows, 'energy_diagonal', 'energy_diagonal_null')
  diagonal = statistics.mean_over_rows(rows, 'energy_diagonal')
  rotated = statistics.mean_over_rows(rows, 'energy_rotated')
  if found is None or diagonal is None or rotated is None:
    return not_tested(NO_ROTATION if not rows else
                      'the energies of the update were not measured')
  return judged(
      rotated > 10 * diagonal and found['high'] < 0, found,
      'difference of shares',
      'diagonal energy minus its null (a random update is mostly rotated '
      f'too); energy of the update: {verdicts.percent(rotated)} rotated, '
      f'{verdicts.percent(diagonal)} diagonal')


def values_are_a_no_op(tables: Tables) -> Finding:
  found = edits.edits(statistics.about(tables['restoration'], 'sft'))
  none = edits.untouched(found)
  tried = [e for e in found.values() if e.name == 'values']
  if none is None or not tried:
    return not_tested(NO_RESTORATION if none is None else
                      'no edit restores singular values only')
  changes = {e.label: pairs.difference(
      e.solved('ood'), none.solved('ood')) for e in tried}
  changes = {label: c for label, c in changes.items() if c}
  if not changes:
    return not_tested('the edits have no solved hands in common')
  label = max(changes, key=lambda k: max(
      abs(changes[k]['low']), abs(changes[k]['high'])))
  worst = changes[label]
  return judged(
      worst['low'] > -verdicts.MARGIN and worst['high'] < verdicts.MARGIN,
      worst, 'difference of rates',
      f'change of OOD under `{label}`, of {len(changes)} edits the furthest '
      'from no change')


def directions_recover(tables: Tables) -> Finding:
  found = edits.edits(statistics.about(tables['restoration'], 'sft'))
  edit = next((e for e in found.values() if e.name == 'vectors' and
               not e.control and set(e.options) == {'top'} and
               edits.amount(e, 'top') == .2), None)
  if edit is None or edits.untouched(found) is None:
    return not_tested(NO_RESTORATION if not found else
                      'no edit restores the directions of the leading 20 %')
  fraction = _recovered(tables, edits.untouched(found), edit)
  drawn = edits.draw(found)
  along = edits.path(found)
  others = [e.label for e in found.values()
            if e.control and e.label not in along and e.name != 'noise' and
            e is not edits.base_end(found)]
  if fraction is None or drawn is None or len(along) < 2:
    return not_tested(NO_LOSS if fraction is None else
                      'no interpolation control on the same hands')
  over = edits.over_controls(
      drawn, edit.label, along=along, controls=[
          name for name in others if name in drawn.labels])
  if over is None:
    return not_tested(
        f'`{edit.label}` is {edits.APART}; it recovers '
        f'{verdicts.plain(fraction)} of the loss since the cross-fitted SFT '
        f'peak{_against_matched(found, edit)}')
  loss = pairs.difference(
      edit.solved('id'), edits.untouched(found).solved('id'))
  return judged(
      fraction['mean'] >= .7 and fraction['low'] > .5 and over['low'] > 0,
      fraction, 'recovered fraction',
      f'`{edit.label}`, share of the loss since the cross-fitted SFT peak; '
      f'it changes ID by {points(loss)}; OOD over the best control at equal '
      f'ID {points(over)}{_against_matched(found, edit)}')


def first_quarter_suffices(tables: Tables) -> Finding:
  found = edits.edits(statistics.about(tables['restoration'], 'sft'))
  blocks = {edits.layers(e): e for e in found.values()
            if e.name == 'revert' and set(e.options) == {'layers'} and
            edits.layers(e)}
  blocks = {k: e for k, e in blocks.items() if abs(k[1] - k[0] - .25) < .05}
  first = next((e for k, e in blocks.items() if k[0] == 0), None)
  if first is None or len(blocks) < 2 or edits.untouched(found) is None:
    return not_tested(NO_RESTORATION if not found else
                      'no edits revert blocks of a quarter of the layers')
  fraction = _recovered(tables, edits.untouched(found), first)
  if fraction is None:
    return not_tested(NO_LOSS)
  gaps = {e.label: pairs.difference(
      first.solved('ood'), e.solved('ood'))
      for e in blocks.values() if e is not first}
  if None in gaps.values():
    return not_tested('the blocks have no solved hands in common')
  label = min(gaps, key=lambda k: gaps[k]['low'])
  sizes = ', '.join(f'{k[0]:g}:{k[1]:g} {e.distance("distance_to_sft"):.3g}'
                    for k, e in sorted(blocks.items())
                    if e.distance('distance_to_sft') is not None)
  return judged(
      fraction['mean'] >= .7 and fraction['low'] > .5 and
      gaps[label]['low'] > 0, fraction, 'recovered fraction',
      f'`{first.label}`, share of the loss since the cross-fitted SFT peak; '
      f'OOD over the next best block (`{label}`) {points(gaps[label])}; '
      f'distance moved by block {sizes}{_against_matched(found, first)}')


def imposing_removes_gain(tables: Tables) -> Finding:
  found = edits.edits(statistics.about(tables['restoration'], 'rl'))
  edit = next((e for e in found.values() if e.name == 'vectors' and
               not e.control and set(e.options) == {'top'} and
               edits.amount(e, 'top') == .2), None)
  none, drawn = edits.untouched(found), edits.draw(found)
  along = edits.path(found)
  if edit is None or none is None or drawn is None or len(along) < 2:
    return not_tested('no restoration stage imposes SFT directions on an RL '
                      'checkpoint, with its interpolation control')
  change = pairs.difference(edit.solved('ood'), none.solved('ood'))
  over = edits.over_controls(
      edits.mirrored(drawn), edit.label, along=along)
  if change is None:
    return not_tested('the edits have no solved hands in common')
  if over is None:
    return not_tested(f'`{edit.label}` is {edits.APART}; it changes OOD by '
                      f'{points(change)}')
  return judged(
      change['high'] < 0 and over['low'] > 0, change, 'difference of rates',
      f'change of the OOD of RL under `{edit.label}`; it removes '
      f'{points(over)} more than interpolation at equal ID')


def _against_matched(found, edit):
  """What controls that go as far as the edit leave of it, in words."""
  words = {'interpolate': 'interpolation'}
  gaps = [(words.get(control.name, control.name), *(pairs.difference(
      edit.solved(split), control.solved(split)) for split in ('ood', 'id')))
      for control in edits.matched(found, edit)]
  return ''.join(f'; over {name} of the same distance OOD {points(ood)}, ID '
                 f'{points(kept)}' for name, ood, kept in gaps)


def _recovered(tables, none, edit):
  """The share of the OOD success lost since the SFT peak that is back."""
  return pairs.ratio(
      [edit.solved('ood'), none.solved('ood'), statistics.sft_peak(tables)],
      [1, -1, 0], [0, -1, 1])


CLAIMS = (
    Claim(13, 'Singular values hardly change',
          'Their mean relative change is below that under a random update of '
          'the same norm (difference below 0, over layers and modules).',
          values_hardly_change),
    Claim(14, 'Rotation concentrates at both ends of the spectrum',
          'In the leading and in the trailing tenth of the directions the '
          'angle over its null is above that of the middle (both intervals '
          'above 0).', edges_rotate),
    Claim(15, 'The update rotates: off-diagonal energy dominates',
          'Rotated energy is ten times the diagonal, and the diagonal is '
          'below that of a random update (difference below 0).',
          rotation_dominates),
    Claim(16, 'Restoring singular values only does nothing',
          'Every such edit changes OOD by less than two points either way '
          '(whole interval).', values_are_a_no_op),
    Claim(17, 'Restoring the directions of the leading 20 % recovers 70 to '
          '80 % of OOD',
          'The recovered fraction is at least 0.7 with an interval above 0.5, '
          'and OOD is above every control (interpolation, reversion) at equal '
          'ID.', directions_recover),
    Claim(18, 'Reverting the first quarter of the layers suffices',
          'It recovers at least 0.7 (interval above 0.5) and more than every '
          'other quarter (intervals above 0).', first_quarter_suffices),
    Claim(19, 'Imposing SFT directions on the RL checkpoint removes its gain',
          'OOD falls (interval below 0), and by more than under interpolation '
          'at equal ID (interval above 0).', imposing_removes_gain),
)
