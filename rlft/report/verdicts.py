"""What a claim is and what testing it yields; words for rates and intervals."""
import math
from collections.abc import Callable
from typing import NamedTuple

MARGIN = .02  # two points: differences inside count as none


class Finding(NamedTuple):
  """The outcome of one test."""
  verdict: str  # holds | fails | not tested
  why: str
  measured: float | None = None
  interval: list[float] | None = None
  unit: str = ''  # difference of rates | share | recovered fraction | ...


class Claim(NamedTuple):
  """A claim of the base paper with the rule that decides it."""
  number: int
  claim: str
  accept: str
  test: Callable[[dict], Finding]


def not_tested(why: str) -> Finding:
  """The study does not have what the rule needs."""
  return Finding('not tested', why)


def judged(holds: bool, estimate: dict, unit: str, why: str) -> Finding:
  """A verdict on an estimate {mean, low, high}."""
  return Finding('holds' if holds else 'fails', why, estimate['mean'],
                 [estimate['low'], estimate['high']], unit)


def tenths(rate: float, sign: str = '') -> str:
  """100 * rate with one decimal; ties away from 0, as the page rounds."""
  text = f'{100 * rate + math.copysign(1e-9, rate):{sign}.1f}'
  return '0.0' if text == '-0.0' else text


def percent(rate: float | None) -> str:
  """A rate in percent, one decimal."""
  return '?' if rate is None else f'{tenths(rate)} %'


def points(estimate: dict | None, sign: str = '+') -> str:
  """A difference of rates in points, with its interval."""
  if estimate is None:
    return 'not paired'
  return (f'{tenths(estimate["mean"], sign)} points '
          f'[{tenths(estimate["low"])}, {tenths(estimate["high"])}]')


def plain(estimate: dict | None, digits: int = 2) -> str:
  """Any other estimate with its interval."""
  if estimate is None:
    return 'no interval'
  return (f'{estimate["mean"]:.{digits}f} [{estimate["low"]:.{digits}f}, '
          f'{estimate["high"]:.{digits}f}]')
