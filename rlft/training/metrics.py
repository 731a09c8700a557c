"""Metrics of a run: one JSON object per line, and TensorBoard beside it."""
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from rlft.training import board, disk, multihost, store

COMPILE = '/jax/core/compile/backend_compile_duration'


class Writer(NamedTuple):
  """Where a run's numbers go; of several processes the first one's."""
  path: store.Where
  events: store.Where  # for TensorBoard


def open_writer(run_dir: store.Where, step: int) -> Writer:
  """Opens the log; lines of a step beyond `step` are a lost run's and go."""
  path = run_dir / 'metrics.jsonl'
  truncate(path, step)
  events = board.name(run_dir / 'tensorboard')
  if multihost.leads():
    with disk.writing(events):
      board.begin(events, step + 1)
  return Writer(path, events)


def truncate(path: store.Where, step: int) -> None:
  """Drops rows beyond `step` and a last line that was cut in the middle."""
  if not multihost.leads() or not store.exists(path):
    return
  kept = [row for row in read(path) if row['step'] <= step]
  lines = ''.join(json.dumps(row) + '\n' for row in kept)
  with disk.writing(path):
    store.replace(path, lines.encode())


def read(path: store.Where) -> list[dict[str, Any]]:
  """The whole rows of a JSONL file; a torn last line is not a row."""
  rows = []
  for line in store.read(path).decode().splitlines():
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows


def plain(metrics: Mapping[str, Any]) -> dict[str, float | None]:
  """Python floats; a number that is not finite becomes null, which is JSON."""
  floats = {k: float(v) for k, v in metrics.items()}
  return {k: v if math.isfinite(v) else None for k, v in floats.items()}


def write(writer: Writer, step: int, metrics: Mapping[str, Any]) -> dict:
  """Appends one row; returns it."""
  row = {'step': step, **plain(metrics)}
  append(writer.path, row)
  if multihost.leads():
    with disk.writing(writer.events):
      board.add(writer.events, step, {
          k: v for k, v in row.items() if k != 'step' and v is not None})
  return row


def append(path: store.Where, row: Mapping[str, Any]) -> None:
  """One row at the end of a JSONL file, by the first process.

  disk.Unsaved where that cannot be.
  """
  if not multihost.leads():
    return
  line = json.dumps(row) + '\n'
  with disk.writing(path):
    store.append(path, line.encode())


class Compilations:
  """Counts compilations since it was made, by listening to JAX."""

  def __init__(self):
    self.count = 0
    jax.monitoring.register_event_duration_secs_listener(self._heard)

  def _heard(self, event: str, duration: float, **_: Any) -> None:
    del duration
    self.count += event == COMPILE
