"""Reads the files of a run, whatever state they are in.

A missing file is empty. What cannot be read is skipped, and `Log` keeps a
sentence about it that the page shows.
"""
import json
import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from rlft.training import store


class Log(NamedTuple):
  """Where the study is and what was wrong with its files."""
  root: store.Where
  warnings: list[str]

  def say(self, path: store.Where, what: str) -> None:
    self.warnings.append(f'{path.relative_to(self.root)}: {what}')


def text(path: store.Where) -> str:
  """The text of a file, '' if there is none."""
  return store.read(path).decode(errors='replace') if path.is_file() else ''


def document(path: store.Where, log: Log) -> Any:
  """The JSON value of a file, None if there is none to be had."""
  found = text(path)
  if not found:
    return None
  try:
    return json.loads(found)
  except ValueError:
    log.say(path, 'not JSON (truncated?): it is skipped')
    return None


def section(path: store.Where, log: Log) -> dict:
  """The JSON object of a file, {} if there is none to be had."""
  found = document(path, log)
  return found if isinstance(found, dict) else {}


def lines(path: store.Where, log: Log) -> list[dict]:
  """The objects of a file with one per line."""
  rows = []
  for number, line in enumerate(text(path).split('\n'), start=1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except ValueError:
      row = None
    if isinstance(row, dict):
      rows.append(row)
    else:
      log.say(path, f'line {number} is not a JSON object (truncated?): it is '
              'skipped')
  return rows


def number(value: Any) -> int | float | None:
  """The value if it is a finite number, else None."""
  good = isinstance(value, int | float) and not isinstance(value, bool)
  return value if good and math.isfinite(value) else None


def unpack(hexadecimal: str, n: int) -> Bool[np.ndarray, '_']:
  """The first n bits of a packed bit string; ValueError if it is too short."""
  bits = np.unpackbits(np.frombuffer(bytes.fromhex(hexadecimal), np.uint8))
  if bits.size < n:
    raise ValueError(f'{bits.size} bits for {n} hands')
  return bits[:n].astype(bool)


def hands(packed: Any, n: int, success: float, path: store.Where, what: str,
          log: Log) -> Bool[np.ndarray, '_'] | None:
  """The solved hands, or None with a warning if they cannot be right."""
  if not packed:
    return None
  try:
    bits = unpack(packed, n)
  except (TypeError, ValueError):
    bits = None
  if bits is None or bits.sum() != round(success * n):
    log.say(path, f'the solved hands of {what} disagree with its n and '
            'success; paired differences leave them out')
    return None
  return bits


def problems(numbers: Any, n: int, path: store.Where, what: str,
             log: Log) -> Int[np.ndarray, '_'] | None:
  """Which hands are one problem, or None with a warning if unusable."""
  if numbers is None:
    return None
  if not (isinstance(numbers, list) and len(numbers) == n and all(
      isinstance(k, int) and not isinstance(k, bool) for k in numbers)):
    log.say(path, f'the problems of {what} are not {n} numbers, one per hand: '
            'hands count as independent there')
    return None
  return np.array(numbers)


def wins(packed: Any, solved: Bool[np.ndarray, '_'] | None,
         path: store.Where, what: str, log: Log
         ) -> Bool[np.ndarray, '_ _'] | None:
  """What each independent sample solved, or None if it was not recorded.

  With a warning where the samples together did not solve what `solved` says.
  """
  if not packed or solved is None:
    return None
  try:
    bits = np.stack([unpack(one, solved.size) for one in packed])
  except (TypeError, ValueError):
    bits = None
  if bits is None or (bits.any(axis=0) != solved).any():
    log.say(path, f'the wins of {what} disagree with its solved hands; pass@k '
            'leaves them out')
    return None
  return bits
