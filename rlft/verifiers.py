"""Verifiers in processes of their own: one that hangs or dies ends no run.

A pool has so many workers, each a fresh Python that imports the environment.
What a worker is sent is a task and its completions, and it answers with a turn:
JSON both ways. One that is silent for longer than the deadline is killed, with
whatever it has started, and another takes its place: the kind of that turn is
`timed_out`. Where the verifier raises, gives no turn or a reward that is not
finite, or the worker dies, it is `crashed`. Neither has a reward, unless
`failed_reward` says which.

No worker outlives the process that made it, however that ends: on Linux the
system kills it, whatever it is doing; elsewhere it ends after the turn that it
is judging. Only what a verifier has started itself may outlive a run that was
killed.

Deadlines are of the clock on the wall, so a turn near to its deadline may time
out on one day and not on another: a run in which that happens is not the same
when made again. All else is, whatever the number of workers.
"""
import contextlib
import functools
import json
import math
import os
import queue
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent import futures
from multiprocessing import connection
from typing import Any, NamedTuple

import numpy as np

from rlft import parts, pulse, spelled
from rlft.ops import dealing
from rlft.types import Task, Turn

FAILURES = ('timed_out', 'crashed')  # which say nothing of the completion
STARTUP = 300.0  # seconds that a worker has for its imports
Reply = tuple[Turn, str]  # and why it failed, '' where it did not


class Here:
  """`respond` in this process, at once; what it raises ends the run."""

  def __init__(self, respond: Callable):
    self._respond = respond

  def begin(self, task: Task, completions: list[str]) -> futures.Future:
    """A turn that is there already."""
    future: futures.Future = futures.Future()
    future.set_result(self._respond(task, completions))
    return future

  def ended(self, begun: Sequence[futures.Future]) -> list[Turn]:
    """The turns, in order."""
    return [future.result() for future in begun]


@contextlib.contextmanager
def dropping(begun: list[futures.Future]) -> Iterator[None]:
  """Where the work ends early nobody will ask for what was begun."""
  try:
    yield
  except BaseException:
    for future in begun:
      future.cancel()
    raise


class Worker(NamedTuple):
  """A process, and this end of the line to it."""
  process: subprocess.Popen
  line: connection.Connection

  def end(self) -> int:
    """Kills it with all that it started; its exit status."""
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self.process.pid, signal.SIGKILL)
    self.line.close()
    return self.process.wait()


class Pool:
  """`respond` of an environment, in `workers` processes.

  `deadline` is in seconds for each turn. ValueError for numbers that make no
  sense, and for a verifier that is no function of a module.
  """

  def __init__(
      self, respond: Callable, *, workers: int = 2,
      deadline: float | int = 5.0, failed_reward: float | int | None = None):
    if workers < 1 or not 0 < deadline < math.inf:
      raise ValueError(f'workers={workers}, deadline={deadline}: give 1 or '
                       'more, and seconds above 0')
    try:
      self._program = spelled.write(respond)
    except ValueError as error:
      raise ValueError('verifiers run in other processes only if they are '
                       f'functions of a module: {error}') from error
    self._deadline = deadline
    self._reward = math.nan if failed_reward is None else float(failed_reward)
    self._told: set[str] = set()
    self._threads = futures.ThreadPoolExecutor(workers, 'verifier')
    self._free: queue.SimpleQueue = queue.SimpleQueue()
    for _ in range(workers):
      self._free.put(None)  # one is started when it is first needed
    self.close = weakref.finalize(self, _close, self._threads, self._free)

  def begin(self, task: Task, completions: list[str]) -> futures.Future:
    """A turn to come, as `ended` takes it; the work goes on meanwhile."""
    return self._threads.submit(self._judge, task, completions)

  def ended(self, begun: Sequence[futures.Future]) -> list[Turn]:
    """The turns, in order; what failed in any process has failed in all."""
    replies = []
    for future in begun:
      replies.append(future.result())
      pulse.beat()  # many that are late, one after the other, are no stall
    for turn, why in replies:
      name = next(iter(turn.parts))
      if why and name not in self._told:
        self._told.add(name)
        print(f'rlft: warning: a verifier {name.replace("_", " ")}: {why}; '
              f'from now on this is only counted (outcome_{name})',
              file=sys.stderr, flush=True)
    codes = np.array([FAILURES.index(next(iter(turn.parts))) + 1 if why else 0
                      for turn, why in replies], np.int32)
    return [turn if code == own else self._failed(FAILURES[code - 1], '')[0]
            for (turn, _), own, code in zip(
                replies, codes, dealing.largest(codes), strict=True)]

  def _failed(self, name: str, why: str) -> Reply:
    return Turn('', self._reward, True, {name: self._reward}), why

  def _judge(self, task: Task, completions: list[str]) -> Reply:
    """In a thread: the answer of a worker, or how it failed to give one."""
    worker = self._free.get()
    try:
      worker = worker or start(self._program)
      try:
        worker.line.send_bytes(spelled.write((task, completions)))
        if not worker.line.poll(self._deadline):
          worker.end()
          worker = None
          return self._failed(
              'timed_out', f'no answer in {self._deadline:g} s')
        said = json.loads(worker.line.recv_bytes())
      except (EOFError, ConnectionError):
        status, worker = worker.end(), None
        return self._failed('crashed', f'its process died (status {status})')
    finally:
      self._free.put(worker)
    if 'raised' in said:
      return self._failed('crashed', said['raised'])
    return Turn(**said), ''


def pool(respond: Callable, section: dict[str, Any] | None,
         learned: Collection[str], where: str = 'experience.verifiers'
         ) -> Pool | None:
  """What the section `where` asks for; ValueError for what makes no sense, as
  does learning from a failure that has no reward."""
  failures = [name for name in FAILURES if name in learned]
  if failures and (section or {}).get('failed_reward') is None:
    raise ValueError(
        f'experience.learn_from has {failures[0]}, which has no reward: set '
        'experience.verifiers=dict(failed_reward=...), or leave it out')
  if section is None:
    return None
  with parts.named(where):
    return parts.fill(
        functools.partial(Pool, respond), where, **section)()


def _close(threads: futures.ThreadPoolExecutor, free: queue.SimpleQueue
           ) -> None:
  """Ends the workers; a turn that is being judged is waited for."""
  threads.shutdown(cancel_futures=True)
  with contextlib.suppress(queue.Empty):
    while True:
      worker = free.get_nowait()
      if worker is not None:
        worker.end()


def start(program: bytes) -> Worker:
  """A worker that has done its imports; ChildProcessError if it cannot."""
  ours, theirs = connection.Pipe()
  process = subprocess.Popen(
      [sys.executable, '-m', 'rlft.worker', str(theirs.fileno())],
      pass_fds=[theirs.fileno()], process_group=0,
      stdin=subprocess.DEVNULL, stdout=2,  # what a verifier prints
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'OMP_NUM_THREADS': '1',
           'PYTHONPATH': os.pathsep.join(p or os.getcwd() for p in sys.path)})
  theirs.close()
  worker = Worker(process, ours)
  try:
    ours.send_bytes(program)
    why = (ours.recv_bytes().decode() if ours.poll(STARTUP) else
           f'it was not ready after {STARTUP:g} s')
  except (EOFError, ConnectionError):
    why = 'it ended at once'
  if why:
    raise ChildProcessError(
        f'a verifier process did not start: {why} (status {worker.end()})')
  return worker
