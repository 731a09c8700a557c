"""A machine that is taken away: what is done so far is saved, then it ends.

SIGTERM is how clouds and schedulers announce it, SIGINT is Ctrl-C. Either is
heeded at the next beat, where the loop saves and ends with exit code 42, the
only one that asks to be started again. A second signal ends at once.
"""
import contextlib
import signal
import threading
from collections.abc import Iterator

from rlft import pulse

SIGNALS = (signal.SIGTERM, signal.SIGINT)


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
