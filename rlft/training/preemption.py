"""A machine that is taken away: what is done so far is saved, then it ends.

SIGTERM is how clouds and schedulers announce it, SIGINT is Ctrl-C. Either is
heeded at the next beat, where the loop saves and ends with exit code 42, the
only one that asks to be started again. A second signal ends at once. Of several
processes one signal to any of them is enough: they agree on a beat.
"""
import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from rlft import pulse

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_ticks = itertools.count()  # every process counts the same ones


class Preempted(KeyboardInterrupt):
  """The run was asked to end, and has saved what it did."""
  exit_code = 42


@contextlib.contextmanager
def heeded() -> Iterator[None]:
  """Inside, a signal raises Preempted at the next beat.

  Outside the main thread, which alone may say what signals do, nothing changes.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  if jax.process_count() > 1:
    with _together():
      yield
    return
  asked = []

  def ask(number, frame):
    del frame
    asked.append(signal.Signals(number).name)
    restore()  # the next one acts as it did before

  def restore():
    for number, handler in before.items():
      signal.signal(number, handler)

  def heed():
    if asked:
      raise Preempted(f'ended by {asked[0]}, and saved')

  # what is ignored, as by a job in the background, stays so
  before = {number: handler for number in SIGNALS if (
      handler := signal.getsignal(number)) not in (None, signal.SIG_IGN)}
  for number in before:
    signal.signal(number, ask)
  try:
    with pulse.listening(heed):
      yield
  finally:
    restore()


@contextlib.contextmanager
def _together() -> Iterator[None]:
  """The same for all processes, by the service that JAX has for it.

  That hears SIGTERM itself, and no handler may be put in its place. It keeps
  the last beat that it was asked about. Orbax asks as well, in threads, with
  the number of a checkpoint: processes would agree on a beat that some have
  passed, and wait for each other. So Orbax is answered here.
  """
  reached = multihost_utils.reached_preemption_sync_point

  def heed():
    if reached(next(_ticks)):
      raise Preempted('ended by a signal to one of the processes, and saved')

  multihost_utils.reached_preemption_sync_point = lambda step: False
  before = signal.getsignal(signal.SIGINT)
  pass_on = before not in (None, signal.SIG_IGN)
  if pass_on:
    signal.signal(
        signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
  try:
    with pulse.listening(heed):
      yield
  finally:
    multihost_utils.reached_preemption_sync_point = reached
    if pass_on:
      signal.signal(signal.SIGINT, before)
