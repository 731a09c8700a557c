"""One target, so many inputs: a deadline for each, and what came of them."""
import collections
import errno
import faulthandler
import itertools
import mmap
import os
import pathlib
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.fuzz import mutation, rules, targets

DEADLINE = 5.0  # seconds for one input
STUCK = 60.0  # seconds, where not even a signal is taken
MOST_GROWTH = 256  # MiB of the process, over all inputs
WARM = 2000  # inputs until caches are what they will be
OUT = pathlib.Path('runs/fuzz').absolute()  # where an offending input is left
CURRENT = 2**20  # bytes


class Slow(BaseException):
  """An input took longer than its deadline; nobody may catch it."""


class Failed(Exception):
  """An input that was answered as none may be."""

  def __init__(self, text: str, error: BaseException):
    super().__init__(f'{type(error).__name__}: {error}')
    self.text = text


class Outcome(NamedTuple):
  """What came of a target."""
  inputs: int
  seconds: float
  counts: collections.Counter  # words and exceptions
  slowest: float  # seconds
  longest: str  # the slowest input, its beginning
  growth: float  # MiB


def fresh(name: str, seed: int) -> Iterator[str]:
  """The corpus, then its mutants without end; the same for a seed."""
  corpus = mutation.seeds(name)
  yield from corpus
  corpus = [text for text in corpus if len(text) <= 1000]
  rng = random.Random(f'{name}:{seed}')
  while True:
    yield mutation.text(rng, corpus)


def attempt(call: targets.Call, text: str) -> str:
  """The word for one answer; Failed for one that must not be."""
  try:
    return call(text)
  except ValueError as error:
    try:
      rules.refusal(error)
    except rules.Wrong as wrong:
      raise Failed(text, wrong) from error
    return type(error).__name__
  except OSError as error:
    if error.errno != errno.ENAMETOOLONG:  # the system's own words
      raise Failed(text, error) from error
    return 'too long a name'
  except (Exception, Slow) as error:
    raise Failed(text, error) from error


def run(
    name: str, count: int, seed: int = 0,
    watch: Callable[[str], None] = lambda text: None,
) -> Outcome:
  """Throws `count` inputs at a target; Failed for the first bad answer.

  `watch` is told each of them before. Not for a thread: it uses SIGALRM.
  """
  def late(*_):
    raise Slow(f'no answer after {DEADLINE:g} s')

  counts, worst, here = collections.Counter(), (0.0, ''), os.getcwd()
  # in memory, where that is to be had: opening a file on a disk takes a ms
  memory = '/dev/shm' if os.access('/dev/shm', os.W_OK) else None
  with tempfile.TemporaryDirectory(prefix='fuzz-', dir=memory) as folder:
    call = targets.TARGETS[name](pathlib.Path(folder))
    before = signal.signal(signal.SIGALRM, late)
    began, at_start = time.perf_counter(), resident()
    try:
      for i, text in zip(range(count), fresh(name, seed), strict=False):
        if i == WARM:
          at_start = resident()
        watch(text)
        signal.setitimer(signal.ITIMER_REAL, DEADLINE)
        start = time.perf_counter()
        try:
          counts[attempt(call, text)] += 1
        except Slow as error:  # between the call and the end of it
          raise Failed(text, error) from error
        took = time.perf_counter() - start
        signal.setitimer(signal.ITIMER_REAL, 0)
        if took > worst[0]:
          worst = took, text[:80]
    finally:
      signal.setitimer(signal.ITIMER_REAL, 0)
      signal.signal(signal.SIGALRM, before)
      faulthandler.cancel_dump_traceback_later()
      os.chdir(here)
  return Outcome(count, time.perf_counter() - began, counts, *worst,
                 resident() - at_start)


def resident() -> float:
  """The most memory that this process has had, in MiB."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
      2**20 if sys.platform == 'darwin' else 2**10)


def row(name: str, found: Outcome) -> str:
  """One line of the table."""
  counts = ', '.join(f'{k} {v:,}' for k, v in found.counts.most_common())
  return (f'{name:11} {found.inputs:>9,} inputs {found.seconds:7.1f} s  '
          f'slowest {1000 * found.slowest:7.1f} ms ({found.longest[:12]!r})  '
          f'grown {found.growth:6.1f} MiB  {counts}')


def leave(name: str, text: str) -> pathlib.Path:
  """Writes an offending input into a file."""
  OUT.mkdir(parents=True, exist_ok=True)
  path = OUT / f'{name}.failed'
  path.write_bytes(text.encode('utf-8', 'surrogatepass'))
  return path


def watched(name: str) -> Callable[[str], None]:
  """Keeps the input in progress in a file, however the process ends.

  A process that not even a signal reaches ends itself, with a traceback.
  """
  OUT.mkdir(parents=True, exist_ok=True)
  path = current(name)
  path.write_bytes(bytes(CURRENT))
  with path.open('r+b') as file:
    memory = mmap.mmap(file.fileno(), CURRENT)
  calls = itertools.count()

  def watch(text):
    data = text.encode('utf-8', 'surrogatepass')[:CURRENT - 8]
    memory[:8 + len(data)] = len(data).to_bytes(8, 'little') + data
    if next(calls) % 256 == 0:  # it starts a thread each time
      faulthandler.dump_traceback_later(STUCK, exit=True)
  return watch


def current(name: str) -> pathlib.Path:
  """Where the input in progress is kept."""
  return OUT / f'{name}.current'


def last(name: str) -> str:
  """The input in progress when a process ended."""
  data = current(name).read_bytes()
  size = int.from_bytes(data[:8], 'little')
  return data[8:8 + size].decode('utf-8', 'surrogatepass')


def stuck(name: str) -> bool:
  """Whether a process ended without a word of its own: no input was left."""
  failed = OUT / f'{name}.failed'
  return not failed.exists() or (
      failed.stat().st_mtime < current(name).stat().st_mtime)
