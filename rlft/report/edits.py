"""The restoration table: what each edit regains, at what price, against what.

An edit changes the weights of one checkpoint toward another. Its OOD regain
and ID loss are paired differences to `none` (the checkpoint unedited). Any
step toward the base trades ID for OOD, so the regain that counts is the one
over the interpolation path *at the same ID rate*.
"""
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rlft.ops import intervals
from rlft.report import statistics

DISTANCES = ('distance_to_sft', 'distance_to_base')


class Edit(NamedTuple):
  """One edit over the seeds."""
  label: str
  name: str  # first word of the label: vectors, revert, interpolate, ...
  options: dict[str, str]  # `top=0.2` -> {'top': '0.2'}; a bare word -> ''
  kind: str
  control: bool
  rows: dict[int, dict]  # by seed

  def solved(self, split: str) -> statistics.Solved:
    return {seed: row[f'{split}_solved'] for seed, row in self.rows.items()
            if row[f'{split}_solved'] is not None}

  def distance(self, name: str) -> float | None:
    return statistics.mean_over_rows(self.rows.values(), name)


class Draws(NamedTuple):
  """Bootstrap draws of the rates of the edits that every seed has."""
  labels: list[str]
  means: dict[str, Float[np.ndarray, '1 C']]  # split -> the rates themselves
  rates: dict[str, Float[np.ndarray, 'S C']]
  seeds: list[int]
  hands: dict[str, int]


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
  """The interpolation control from the unedited checkpoint to the base."""
  steps = [(amount(e), e.label) for e in found.values()
           if e.name == 'interpolate' and set(e.options) == {''} and
           amount(e) is not None]
  start = [(0., 'none')] if 'none' in found else []
  return [label for _, label in sorted(start + steps)]


def draw(found: dict[str, Edit]) -> Draws | None:
  """Draws of all edits at once, on the same seeds and hands."""
  every = {seed for edit in found.values() for seed in edit.rows}
  labels = [e.label for e in found.values()
            if set(e.solved('id')) == set(e.solved('ood')) == every]
  stacks = {split: statistics.paired(
      [found[label].solved(split) for label in labels])
      for split in ('id', 'ood')} if labels else {}
  if not stacks or not stacks['id'][0] or (
      stacks['id'][0] != stacks['ood'][0]):
    return None
  return Draws(
      labels,
      {name: np.mean([b.mean(axis=1) for b in bits], axis=0)[None]
       for name, (_, bits) in stacks.items()},
      {name: intervals.resample(bits, stream=stream)
       for stream, (name, (_, bits)) in enumerate(stacks.items())},
      stacks['id'][0],
      {name: int(sum(b.shape[1] for b in bits))
       for name, (_, bits) in stacks.items()})


def over_controls(drawn: Draws, label: str, *, along: Sequence[str],
                  controls: Sequence[str] = (),
                  confidence: float = .95) -> dict | None:
  """OOD of an edit over the best control of at least its ID, paired."""
  if label not in drawn.labels or not along or not {
      *along, *controls} <= set(drawn.labels):
    return None
  place = drawn.labels.index
  gains = []
  for rates in (drawn.means, drawn.rates):
    control = crossing(
        rates['id'], rates['ood'], rates['id'][:, place(label)],
        path=[place(name) for name in along],
        points=[place(name) for name in controls])
    gains.append(rates['ood'][:, place(label)] - control)
  low, high = intervals.quantiles(gains[1], confidence)
  return {'mean': float(gains[0][0]), 'low': low, 'high': high,
          'seeds': len(drawn.seeds), 'n': drawn.hands['ood']}


def mirrored(drawn: Draws) -> Draws:
  """The same with OOD turned round: high where the edit solves little."""
  flip = lambda rates: rates | {'ood': -rates['ood']}
  return drawn._replace(means=flip(drawn.means), rates=flip(drawn.rates))


def compare(given: list[dict]) -> list[dict]:
  """One row per edit: rates, distances, regain, loss, gain over the path."""
  found = edits(given)
  none = untouched(found)
  drawn = draw(found)
  along = path(found)
  rows = []
  for edit in found.values():
    row = {'edit': edit.label, 'kind': edit.kind, 'control': edit.control}
    for name in ('id', 'ood'):
      row[name] = statistics.split(r[name] for r in edit.rows.values())
    row |= {name: edit.distance(name) for name in DISTANCES}
    for name, split, sign in (('ood_regain', 'ood', 1), ('id_loss', 'id', -1)):
      row[name] = none and statistics.contrast(
          [edit.solved(split), none.solved(split)], [sign, -sign])
    row['over_interpolation'] = None if (
        drawn is None or edit.label in along) else over_controls(
            drawn, edit.label, along=along)
    rows.append(row)
  return rows


def best(rows: list[dict]) -> dict | None:
  """The edit furthest above the interpolation path at its own ID rate.

  The best of `tried` edits was picked on the same hands, so its interval is
  at 1 - 0.05 / tried (Bonferroni).
  """
  found = edits(rows)
  along, drawn = path(found), draw(found)
  if drawn is None or len(along) < 2:
    return None
  tried = [e for e in found.values()
           if not e.control and e.label not in along and e.name != 'noise' and
           e is not base_end(found)]
  gains = {e.label: over_controls(
      drawn, e.label, along=along, confidence=1 - .05 / len(tried))
      for e in tried}
  gains = {label: gain for label, gain in gains.items() if gain}
  if not gains:
    return None
  label = max(gains, key=lambda name: gains[name]['mean'])
  return {'edit': label, 'over_interpolation': gains[label],
          'tried': len(tried)}


def crossing(rates_id: Float[np.ndarray, 'S C'],
             rates_ood: Float[np.ndarray, 'S C'],
             wanted: Float[np.ndarray, 'S'], *, path: Sequence[int],
             points: Sequence[int] = ()) -> Float[np.ndarray, 'S']:
  """The best OOD rate of controls whose ID rate is at least `wanted`.

  `path` are conditions in order along a continuous control (interpolation):
  points between neighbours count too. `points` are single ones. Where no
  control keeps that much ID, the one that keeps most stands for them.
  """
  best = np.full(wanted.shape, -np.inf)
  for i in (*path, *points):
    best = np.maximum(best, np.where(
        rates_id[:, i] >= wanted, rates_ood[:, i], -np.inf))
  for i, j in itertools.pairwise(path):
    first, second = rates_id[:, i] - wanted, rates_id[:, j] - wanted
    crosses = first * second < 0
    share = np.where(crosses, first, 0) / np.where(crosses, first - second, 1)
    between = rates_ood[:, i] + share * (rates_ood[:, j] - rates_ood[:, i])
    best = np.maximum(best, np.where(crosses, between, -np.inf))
  every = [*path, *points]
  highest = np.array(every)[np.argmax(rates_id[:, every], axis=1)]
  fallback = rates_ood[np.arange(wanted.size), highest]
  return np.where(np.isfinite(best), best, fallback)
