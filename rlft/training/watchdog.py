"""A process that is alive and gets nowhere: it is found, told and ended.

Heartbeats come from a thread of their own and say nothing of the work. Beats
(`pulse`) and compilations do; the first step has a deadline of its own.
"""
import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import jax

from rlft import pulse
from rlft.training import multihost

STARTUP, STALL = 'RLFT_STARTUP_SECONDS', 'RLFT_STALL_SECONDS'
DEFAULTS = {STARTUP: 3600, STALL: 900}
CODE = 43
_heard: list[Callable[[], None]] = []  # whom a finished compilation concerns


def _compiled(event: str, duration: float, **_) -> None:
  del duration
  if 'compile' in event:
    for touch in tuple(_heard):
      touch()


jax.monitoring.register_event_duration_secs_listener(_compiled)


@contextlib.contextmanager
def watching() -> Iterator[Callable[[], None]]:
  """Inside, silence longer than the deadline ends the process with code 43.

  RLFT_STARTUP_SECONDS until what is given here has been called, after the first
  step, and RLFT_STALL_SECONDS from then on. A lone process is watched only if
  one of them is set.
  """
  limits = {name: multihost.number(name, default)
            for name, default in DEFAULTS.items()}
  if 0 in limits.values():
    raise ValueError(f'{min(limits, key=limits.get)}=0: give 1 second or more')
  if jax.process_count() == 1 and not os.environ.keys() & DEFAULTS.keys():
    yield lambda: None
    return
  ended, limit, last = threading.Event(), STARTUP, time.monotonic()

  def touch():
    nonlocal last
    last = time.monotonic()

  def settled():
    nonlocal limit
    limit = STALL
    touch()

  def watch():
    while not ended.wait(min(1.0, limits[limit] / 10)):
      silent = time.monotonic() - last
      if silent > limits[limit]:
        end(f'nothing was heard for {silent:.0f} s, more than {limit}='
            f'{limits[limit]} allows')

  thread = threading.Thread(target=watch, name='watchdog', daemon=True)
  _heard.append(touch)
  try:
    with pulse.listening(touch):
      thread.start()
      yield settled
  finally:
    _heard.remove(touch)
    ended.set()
    thread.join()


def end(why: str) -> None:
  """Says why and where every thread is, and ends the process at once."""
  print(f'rlft: process {jax.process_index()}: {why}; this is where it is:',
        file=sys.stderr, flush=True)
  faulthandler.dump_traceback(all_threads=True)
  os._exit(CODE)
