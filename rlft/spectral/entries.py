"""What an entry of a sweep of edits may say: kinds, keywords, labels."""
from collections.abc import Mapping
from typing import Any, NamedTuple

from rlft.spectral import restore


class Kind(NamedTuple):
  """What a sweep entry of one kind may say, and whether it is a control."""
  defaults: dict[str, Any]
  control: bool


# Fractions of the depth, numbers of layers, short names of modules.
PLACE = {'layers': None, 'layer_numbers': None, 'modules': None}
STEP = {'amount': None, 'distance': None, 'match': None}  # give one
SELECTION = ('top', 'tail', 'top_count', 'tail_count')
COUNTS = {'top_count': None, 'tail_count': None}  # instead of top and tail
MIXED = dict(top=0.2, tail=0.0, **COUNTS, polar=True, reference=False, **PLACE)
KINDS = {
    'none': Kind({}, True),
    'values': Kind(dict(top=1.0, tail=0.0, **COUNTS, **PLACE), False),
    'vectors': Kind(MIXED, False),
    'triplets': Kind(MIXED, False),
    'revert': Kind(PLACE, False),
    'interpolate': Kind(STEP | PLACE, True),
    'noise': Kind(STEP | PLACE, True),
    'low_rank': Kind(dict(top=0.2, top_count=None, **PLACE), True),
}


def complete(entry: Any) -> tuple[str, dict[str, Any]]:
  """Kind and all options of an entry; ValueError if it makes no sense."""
  if not isinstance(entry, Mapping):
    raise ValueError(f'{entry!r} is no edit: write dict(kind=...)')
  given = dict(entry)
  kind = given.pop('kind', None)
  if kind not in list(KINDS):  # whatever its type
    raise ValueError(f'no kind {kind!r} of edit; known: {", ".join(KINDS)}')
  defaults = KINDS[kind].defaults
  unknown = sorted(set(given) - set(defaults))
  if unknown:
    raise ValueError(
        f'{kind} takes no {", ".join(unknown)}; known: '
        f'{", ".join(defaults) or "nothing"}')
  options = {**defaults, **given}
  for name in ('top', 'tail'):
    # A number of directions stands instead of the fraction's default.
    if options.get(f'{name}_count') is not None:
      options[name] = given.get(name)
  if options.get('reference'):
    if given.get('polar'):
      raise ValueError(f'{kind}: the reference has no polar correction')
    options['polar'] = defaults['polar']
  return kind, options


def label(kind: str, options: dict[str, Any]) -> str:
  """`vectors top=0.2`: the kind, and the options that matter."""
  words = [kind]
  for name, value in options.items():
    if name == 'amount' and value is not None:
      words.append(f'{float(value):g}')
    elif name == 'match' and value is not None:
      words.append(f'match={value.replace(" ", ":")}')
    elif name == 'top' and value is not None:
      words.append(f'top={float(value)}')
    elif name in ('layers', 'layer_numbers') and value is not None:
      words.append(f'{name}=' + ':'.join(f'{x:g}' for x in value))
    elif name == 'modules' and value is not None:
      words.append('modules=' + ','.join(value))
    elif value is not None and value != KINDS[kind].defaults[name]:
      words.append(f'{name}={value}')
  return ' '.join(words)


def ranged(options: dict[str, Any]) -> bool:
  """Whether an edit is of some layers only."""
  return any(options.get(k) is not None for k in ('layers', 'layer_numbers'))


def span(options: dict[str, Any], depth: int) -> tuple[int, int]:
  """First layer of an edit and the one after its last."""
  layers, numbers = (
      None if options[k] is None else tuple(options[k])
      for k in ('layers', 'layer_numbers'))
  return restore.layer_range(layers, depth, layer_numbers=numbers)
