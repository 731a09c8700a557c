"""Edits as flags, and what came of them as a sentence."""
import math
from typing import Any

from rlft.healing import plan
from rlft.spectral import entries


def parse(kind: str, flags: dict[str, str]) -> dict[str, Any]:
  """Options of an edit from the text of flags; ValueError for what is none."""
  if kind not in entries.KINDS:
    raise ValueError(
        f'no kind {kind!r} of edit; known: {", ".join(entries.KINDS)}')
  known = plan.options(kind)
  found = {}
  for name, text in flags.items():
    if name not in known:
      raise ValueError(
          f'{kind} takes no --{name}; known: '
          f'{", ".join("--" + k for k in known) or "none"}')
    try:
      found[name] = _value(name, known[name], text)
    except ValueError as error:
      raise ValueError(f'--{name}={text}: {error}') from error
  return found


def _value(name: str, default: Any, text: str) -> Any:
  if isinstance(default, bool):
    if text not in ('true', 'false'):
      raise ValueError('write true or false')
    return text == 'true'
  if name == 'modules':
    return tuple(text.split(','))
  if name == 'layers':
    low, colon, high = text.partition(':')
    if not colon:
      raise ValueError('write LOW:HIGH, such as 0:0.25')
    return _number(low), _number(high)
  return _number(text)


def _number(text: str) -> float | int:
  try:
    value = int(text) if text.isdecimal() else float(text)
  except ValueError:
    value = math.nan
  if not math.isfinite(value):
    raise ValueError('give a number')
  return value


def told(found: dict[str, Any]) -> str:
  """What was done, or would be, for the person who waits."""
  rows = found['tensors']
  if found['dry_run']:
    lines = [f'{row["tensor"]}  {row["dtype"]} {row["shape"]}' for row in rows]
    size = sum(math.prod(row['shape']) for row in rows)
    return '\n'.join([
        *lines, f'would edit {len(rows)} tensors of {size} numbers; nothing is '
        'written'])
  done = found['rounding']
  words = [f'{found["out"]}: {len(rows)} tensors edited, by '
           f'{done["edit_norm"]:.4g} (Frobenius norm)']
  if set(done['dtypes']) - {'F32'}:
    words.append(
        f'rounding to {", ".join(done["dtypes"])} moved them by '
        f'{100 * done["undone"]:.2g} % of that, and left '
        f'{100 * done["unchanged"]:.2g} % of the entries as they were')
  return '; '.join(words)
