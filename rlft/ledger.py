"""Where the time goes: every moment of a run is of one phase.

  data       demonstrations are drawn and packed
  rollout    the policy writes completions
  reward     the environment reads them
  log_prob   trainer, reference and critic score them; advantages
  update     the optimizer's steps
  evaluate   evaluations
  save       checkpoints, as far as the run waits for them
  log        numbers are looked at, written and compared between processes
  NAME       an analysis in the loop

A phase ends where the host waits for its results anyway, so that no clock makes
a device wait.
"""
import time
from collections.abc import Mapping
from typing import Any

WORK = ('data', 'rollout', 'reward', 'log_prob', 'update')  # on tokens
SUFFIX = '_seconds'


class Clock:
  """Seconds by phase since the last flush."""

  def __init__(self):
    self.began = self.last = time.monotonic()
    self.spent = {}

  def lap(self, phase: str, told: Mapping[str, Any] | None = None) -> None:
    """Books the time since the last lap on a phase.

    Less what `told`, metrics of a part that had a clock of its own, says of
    other phases (`PHASE_seconds`): that is booked on those.
    """
    now = time.monotonic()
    passed, self.last = now - self.last, now
    for name, seconds in (told or {}).items():
      if name.endswith(SUFFIX):
        self._book(name.removesuffix(SUFFIX), seconds)
        passed -= seconds
    self._book(phase, passed)

  def _book(self, phase: str, seconds: float) -> None:
    self.spent[phase] = self.spent.get(phase, 0.0) + seconds

  def flush(self) -> dict[str, float]:
    """{'update_seconds': ...} and back to zero."""
    spent = {f'{phase}{SUFFIX}': s for phase, s in self.spent.items()}
    self.spent = {}
    return spent

  def wall(self) -> float:
    """Seconds since it was last asked: what a row's phases must sum to."""
    now = time.monotonic()
    passed, self.began = now - self.began, now
    return passed


def worked(spent: Mapping[str, float]) -> float:
  """Of flushed seconds, those that tokens were worked on in."""
  return sum(spent.get(f'{phase}{SUFFIX}', 0.0) for phase in WORK)
