"""What an edit touches in two checkpoints, before any of it is read."""
from typing import Any, NamedTuple

import jax.numpy as jnp

from rlft.analyses import restoration
from rlft.checkpoints import names
from rlft.checkpoints.names import Place
from rlft.checkpoints.tensor import Checkpoint
from rlft.spectral import entries, nulls, restore


class Plan(NamedTuple):
  """What is edited, and how."""
  before: Checkpoint
  after: Checkpoint
  entry: dict[str, Any]  # of a sweep of restoration.edits, for one matrix
  places: dict[str, list[Place]]  # by tensor
  seed: int


def make(
    before: Checkpoint, after: Checkpoint, entry: dict[str, Any],
    select: str | None, seed: int,
) -> Plan:
  """What an edit touches; ValueError when it makes no sense."""
  nulls.check_seed(seed)
  entry = dict(entry)
  places = names.places(
      after.tensors, names.select(after, select), after.kind)
  wanted = entry.get('modules')
  _rehearse(entry, {
      place.name: after.tensors[place.name].shape for place in places
      if wanted is None or place.module in wanted})
  entry.pop('modules', None)
  known = {place.module for place in places}
  unknown = sorted(set(wanted or ()) - known)
  if unknown:
    raise ValueError(
        f'no module {", ".join(unknown)}; known: {", ".join(sorted(known))}')
  layers = entry.get('layers')
  if layers is not None:
    inside = _in_layers(after, places, tuple(layers))
    places = [place for place in places if inside(place)]
    if after.kind == 'directory':
      del entry['layers']
  grouped = {}
  for place in places:
    if entry['kind'] != 'none' and (wanted is None or place.module in wanted):
      grouped.setdefault(place.name, []).append(place)
  if not grouped and entry['kind'] != 'none':
    raise ValueError('no selected matrix is there; widen the edit')
  return Plan(before, after, entry, grouped, seed)


def options(kind: str) -> dict[str, Any]:
  """Options of a kind and their defaults.

  Without those that need every matrix, or another edit, to have been read.
  """
  return {k: v for k, v in entries.KINDS[kind].defaults.items()
          if k not in ('distance', 'match', 'layer_numbers')}


def _rehearse(
    entry: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
  """ValueError for a kind or an option that restoration does not take.

  Tried on a small stand-in for the tensor of fewest directions.
  """
  here = {k: v for k, v in entry.items() if k not in ('layers', 'modules')}
  if entry['kind'] in entries.KINDS:
    taken = options(entry['kind'])
    odd = sorted(set(entry) - {'kind'} - set(taken))
    if odd:
      raise ValueError(
          f'{entry["kind"]} takes no {", ".join(odd)}; known: '
          f'{", ".join(taken) or "nothing"}')
    if 'amount' in taken and entry.get('amount') is None:
      raise ValueError(f'{entry["kind"]} needs an amount: '
                       'amount=0.5 (--amount=0.5) is half of the way')
  counts = [entry.get(k) for k in ('top_count', 'tail_count')]
  asked = sum(x for x in counts if isinstance(x, int))
  name, shape = min(
      shapes.items(), key=lambda item: min(item[1][-2:]),
      default=('toy', (2, 2)))
  size = min(*shape[-2:], max(2, asked + 1))
  toy = {name: jnp.broadcast_to(
      jnp.eye(size), (*[1] * (len(shape) - 2), size, size))}
  restoration.edits(toy, toy, sweep=[here], select='.')


def _in_layers(
    checkpoint: Checkpoint, places: list[Place], layers: restore.Range,
) -> Any:
  """Whether a place is in a range of the depth of its own stack."""
  if checkpoint.kind == 'run':
    for place in places:
      if place.stack:
        restore.layer_range(layers, checkpoint.tensors[place.name].shape[0])
    return lambda place: bool(place.stack)
  depths = names.depths(checkpoint.tensors)
  ranges = {stack: restore.layer_range(layers, depths[stack])
            for stack in {place.stack for place in places} if stack}
  return lambda place: place.stack in ranges and (
      ranges[place.stack][0] <= place.layer < ranges[place.stack][1])


def listed(plan: Plan) -> list[dict[str, Any]]:
  """One row per tensor that is edited."""
  return [
      {'tensor': name, 'layer': some[0].layer, 'module': some[0].module,
       'shape': list(plan.after.tensors[name].shape),
       'dtype': plan.after.tensors[name].dtype}
      for name, some in plan.places.items()]
