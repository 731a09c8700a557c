"""What a number is worth beside its nulls and its noise floor."""
from typing import Any, NamedTuple

import numpy as np

from rlft.spectral.comparison import Comparison


class Number(NamedTuple):
  """A number of the table: `stem` and `unit` of its columns, and its field."""
  field: str
  stem: str
  unit: str = ''
  column: str = ''  # its own, where that is not stem + unit
  unmoved: int = 0  # its value without an update; 1: it falls as more changes


NUMBERS = (
    Number('angle', 'angle', '_rad', 'angle_top_rad'),
    Number('procrustes', 'procrustes', '_rad'),
    Number('projector_distance', 'projector_distance'),
    Number('cosine_top', 'cosine', unmoved=1),
    Number('alignment', 'alignment', unmoved=1),
    Number('value_shift_top', 'value_shift'),
    Number('nss', 'nss'),
    Number('energy.diagonal', 'energy_diagonal'),
    Number('energy.rotated', 'energy_rotated'),
    Number('energy.outside', 'energy_outside'),
    Number('energy_principal', 'energy_principal'),
    Number('stable_rank', 'stable_rank'),
    Number('sparsity', 'update_sparsity'),
    Number('on_principal', 'update_on_principal'),
    Number('on_principal_bf16', 'update_on_principal_bf16'),
)


def columns(
    real: Comparison, null: Comparison, floor: Comparison,
    cross: Comparison | None,
) -> dict[str, np.ndarray]:
  """Every number with its nulls, its floor and whether it exceeds them.

  All on the host. `null` has a leading axis of draws, `cross` is the update of
  another pair of checkpoints. A number exceeds when it is further from its
  value without an update than every one of them that is not NaN; one that is
  NaN itself does not.
  """
  found = {}
  for number in NUMBERS:
    stem, unit = number.stem, number.unit
    own, draws, noise = (_take(x, number.field) for x in (real, null, floor))
    found |= {
        number.column or stem + unit: own,
        f'{stem}_null{unit}': draws.mean(axis=0),
        f'{stem}_null_low{unit}': draws.min(axis=0),
        f'{stem}_null_high{unit}': draws.max(axis=0),
        f'{stem}_floor{unit}': noise}
    rivals = [*draws, noise]
    if cross is not None:
      found[f'{stem}_cross{unit}'] = _take(cross, number.field)
      rivals.append(_take(cross, number.field))
    further = np.less if number.unmoved else np.greater
    beyond = [np.logical_or(further(own, x), np.isnan(x)) for x in rivals]
    found[f'exceeds_{stem}'] = np.all([*beyond, ~np.isnan(own)], axis=0)
  return found


def plain(x: Any) -> float | bool | int | None:
  """A number for JSON; None for NaN, which is what has no value."""
  value = np.asarray(x).item()
  return None if isinstance(value, float) and np.isnan(value) else value


def _take(compared: Comparison, field: str) -> np.ndarray:
  for name in field.split('.'):
    compared = getattr(compared, name)
  return np.asarray(compared)
