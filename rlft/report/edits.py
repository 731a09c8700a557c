"""The restoration table: what each edit regains, at what price, against what.

An edit changes the weights of one checkpoint toward another. Its OOD regain
and ID loss are paired differences to `none` (the checkpoint unedited). Any
step toward the base trades ID for OOD, so the regain that counts is the one
over the interpolation path *at the same ID rate*, where that path has edits of
more and of less ID; and the one over controls that go exactly as far.
"""
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from rlft.ops import intervals
from rlft.report import pairs, statistics

DISTANCES = ('distance_to_sft', 'distance_to_base')
BRACKETED = .975  # of the draws
APART = 'not comparable at equal ID: no control has more and another less'


class Edit(NamedTuple):
  """One edit over the seeds."""
  label: str
  name: str  # first word of the label: vectors, revert, interpolate, ...
  options: dict[str, str]  # `top=0.2` -> {'top': '0.2'}; a bare word -> ''
  kind: str
  control: bool
  rows: dict[int, dict]  # by seed

  def solved(self, split: str) -> pairs.Solved:
    return {seed: pairs.Hands(
        row[f'{split}_solved'], row[f'{split}_problems'])
        for seed, row in self.rows.items()
        if row[f'{split}_solved'] is not None}

  def distance(self, name: str) -> float | None:
    return statistics.mean_over_rows(self.rows.values(), name)


class Draws(NamedTuple):
  """Bootstrap draws of the rates of the edits that every seed has."""
  labels: list[str]
  means: dict[str, Float[np.ndarray, '1 C']]  # split -> the rates themselves
  rates: dict[str, Float[np.ndarray, 'S C']]
  shared: dict[str, pairs.Shared]


def edits(rows: list[dict]) -> dict[str, Edit]:
  """The edits of one group of restoration rows, by label, in their order."""
  found = {}
  for row in rows:
    name, *words = row['edit'].split()
    options = {key if mark else '': value if mark else key
               for key, mark, value in (w.partition('=') for w in words)}
    edit = found.setdefault(row['edit'], Edit(
        row['edit'], name, options, row['kind'], row['control'], {}))
    edit.rows[row['seed']] = row
  return found


def amount(edit: Edit, option: str = '') -> float | None:
  """An option of an edit as a number, None if it has none."""
  try:
    return float(edit.options[option])
  except (KeyError, ValueError):
    return None


def layers(edit: Edit) -> tuple[float, float] | None:
  """The block of layers an edit touches, as shares of the depth."""
  first, _, last = edit.options.get('layers', '').partition(':')
  try:
    return float(first), float(last)
  except ValueError:
    return None


def untouched(found: dict[str, Edit]) -> Edit | None:
  """The checkpoint without an edit."""
  return found.get('none')


def base_end(found: dict[str, Edit]) -> Edit | None:
  """The edit that arrives at the base itself, if there is one."""
  none = untouched(found)
  scale = none.distance('distance_to_base') if none else None
  for edit in found.values():
    distance = edit.distance('distance_to_base')
    if scale and distance is not None and distance < 1e-4 * scale:
      return edit
  return None


def path(found: dict[str, Edit]) -> list[str]:
  """The interpolation control from the unedited checkpoint to the base.

  Every interpolation of all edited weights lies on it, however its step was
  named (an amount, a distance, another edit's distance): they are ordered by
  the distance that they went.
  """
  steps = [(e.distance('distance_to_sft'), e.label) for e in found.values()
           if e.name == 'interpolate' and
           set(e.options) <= {'', 'distance', 'match'}]
  start = [(0., 'none')] if 'none' in found else []
  return [label for _, label in sorted(
      start + [step for step in steps if step[0] is not None])]


def matched(found: dict[str, Edit], edit: Edit) -> list[Edit]:
  """The controls that go exactly as far as an edit."""
  word = edit.label.replace(' ', ':')
  return [e for e in found.values() if e.options.get('match') == word]


def draw(found: dict[str, Edit]) -> Draws | None:
  """Draws of all edits at once, on the same seeds and hands."""
  every = {seed for edit in found.values() for seed in edit.rows}
  labels = [e.label for e in found.values()
            if set(e.solved('id')) == set(e.solved('ood')) == every]
  shared = {split: pairs.together(
      [found[label].solved(split) for label in labels])
      for split in ('id', 'ood')} if labels else {}
  if not shared or None in shared.values() or (
      shared['id'].seeds != shared['ood'].seeds):
    return None
  return Draws(
      labels, {name: s.means[None] for name, s in shared.items()},
      {name: intervals.resample(s.solved, s.problems, stream=stream)
       for stream, (name, s) in enumerate(shared.items())}, shared)


def over_controls(drawn: Draws, label: str, *, along: Sequence[str],
                  controls: Sequence[str] = (),
                  confidence: float = .95) -> dict | None:
  """OOD of an edit over the best control at its ID, paired.

  None where it is not comparable: where the controls' own rates, or those of
  more than 2.5 % of the draws, leave the edit's ID outside their range.
  """
  if label not in drawn.labels or not along or not {
      *along, *controls} <= set(drawn.labels):
    return None
  place = drawn.labels.index
  which = {'path': [place(name) for name in along],
           'points': [place(name) for name in controls]}
  gains, inside = [], []
  for rates in (drawn.means, drawn.rates):
    wanted = rates['id'][:, place(label)]
    mix, bracketed = crossing(rates['id'], rates['ood'], wanted, **which)
    weights = np.eye(len(drawn.labels))[place(label)] - mix
    gains.append(np.sum(weights * rates['ood'], axis=1))
    inside.append(bracketed)
    if rates is drawn.means:
      shared = drawn.shared['ood']
      unseen = intervals.unseen(shared.solved, shared.problems, weights[0])
  if not inside[0][0] or inside[1].mean() < BRACKETED:
    return None
  low, high = intervals.quantiles((gains[1] + unseen)[inside[1]], confidence)
  return {'mean': float(gains[0][0]), 'low': low, 'high': high,
          'seeds': len(shared.seeds), 'n': shared.n,
          'problems': shared.count}


def mirrored(drawn: Draws) -> Draws:
  """The same with OOD turned round: high where the edit solves little."""
  flip = lambda rates: rates | {'ood': -rates['ood']}
  return drawn._replace(means=flip(drawn.means), rates=flip(drawn.rates))


def compare(given: list[dict]) -> list[dict]:
  """One row per edit: rates, distances, regain, loss, gain over controls.

  `over_interpolation` is None on the path itself and where there is nothing
  to compare with at equal ID; `matched` lists {control, id, ood}, the paired
  differences to the controls that go as far.
  """
  found = edits(given)
  none = untouched(found)
  drawn = draw(found)
  along = path(found)
  rows = []
  for edit in found.values():
    row = {'edit': edit.label, 'kind': edit.kind, 'control': edit.control}
    for name in ('id', 'ood'):
      row[name] = statistics.split(
          r[name] | {key: r[f'{name}_{key}'] for key in ('solved', 'problems')}
          for r in edit.rows.values())
    row |= {name: edit.distance(name) for name in DISTANCES}
    for name, split, sign in (('ood_regain', 'ood', 1), ('id_loss', 'id', -1)):
      row[name] = pairs.contrast(
          [edit.solved(split), none.solved(split)], [sign, -sign]) if (
              none and edit is not none) else None
    row['over_interpolation'] = None if (
        drawn is None or edit.label in along) else over_controls(
            drawn, edit.label, along=along)
    if drawn and len(along) > 1 and edit.label in drawn.labels and (
        edit.label not in along and row['over_interpolation'] is None):
      row['over_interpolation_why'] = APART
    row['matched'] = [{'control': control.label} | {
        split: pairs.difference(edit.solved(split), control.solved(split))
        for split in ('id', 'ood')} for control in matched(found, edit)]
    rows.append(row)
  return rows


def best(rows: list[dict]) -> dict | None:
  """The edit furthest above the interpolation path at its own ID rate.

  The best of `tried` comparable edits was picked on the same hands, so its
  interval is at 1 - 0.05 / tried (Bonferroni).
  """
  found = edits(rows)
  along, drawn = path(found), draw(found)
  if drawn is None or len(along) < 2:
    return None
  gains = {e.label: over_controls(drawn, e.label, along=along)
           for e in found.values()
           if not e.control and e.label not in along and e.name != 'noise' and
           e is not base_end(found)}
  given, gains = len(gains), {k: v for k, v in gains.items() if v}
  if not gains:
    return None
  label = max(gains, key=lambda name: gains[name]['mean'])
  return {'edit': label, 'over_interpolation': over_controls(
      drawn, label, along=along, confidence=1 - .05 / len(gains)),
          'tried': len(gains), 'not_comparable': given - len(gains)}


def crossing(rates_id: Float[np.ndarray, 'S C'],
             rates_ood: Float[np.ndarray, 'S C'],
             wanted: Float[np.ndarray, 'S'], *, path: Sequence[int],
             points: Sequence[int] = ()
             ) -> tuple[Float[np.ndarray, 'S C'], Bool[np.ndarray, 'S']]:
  """The mixture of controls with the best OOD rate at an ID rate of `wanted`.

  `path` are conditions in order along a continuous control (interpolation):
  points between neighbours count too. `points` are single ones; they count
  where they keep at least that ID, as those of the path do. Also whether the
  controls bracket `wanted`: where not, the mixture means nothing.
  """
  every = [*path, *points]
  bracketed = (rates_id[:, every].min(axis=1) <= wanted) & (
      wanted <= rates_id[:, every].max(axis=1))
  ends = [(i, i) for i in every] + list(itertools.pairwise(path))
  shares, rates = [], []
  for i, j in ends:
    first, second = rates_id[:, i] - wanted, rates_id[:, j] - wanted
    counts = first >= 0 if i == j else first * second < 0
    share = np.where(counts, first, 0) / np.where(
        counts & (i != j), first - second, np.inf)
    shares.append(share)
    rates.append(np.where(counts, rates_ood[:, i] + share * (
        rates_ood[:, j] - rates_ood[:, i]), -np.inf))
  best = np.argmax(rates, axis=0)
  draws = np.arange(wanted.size)
  share = np.array(shares)[best, draws]
  mix = np.zeros(rates_id.shape)
  mix[draws, np.array(ends)[best, 0]] += 1 - share
  mix[draws, np.array(ends)[best, 1]] += share
  return mix, bracketed
