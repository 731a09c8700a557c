"""A signal is heeded at a beat, once; a second acts as it did before."""
import os
import signal
import threading

import pytest

from rlft import pulse
from rlft.training import preemption


@pytest.fixture(autouse=True)
def usual():
  """Python's own handler: a runner in the background ignores Ctrl-C."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize('number', preemption.SIGNALS)
def test_a_signal_waits_for_the_next_beat(number):
  before = signal.getsignal(number)
  done = []
  with (pytest.raises(preemption.Preempted, match=signal.Signals(number).name),
        preemption.heeded()):
    pulse.beat()
    os.kill(os.getpid(), number)
    done.append('the piece of work that the signal met')
    pulse.beat()
    done.append('never')
  assert len(done) == 1
  assert signal.getsignal(number) is before
  pulse.beat()  # nobody listens any more


def test_a_second_signal_ends_at_once():
  with pytest.raises(KeyboardInterrupt) as error, preemption.heeded():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    pulse.beat()
  assert not isinstance(error.value, preemption.Preempted)


def test_what_is_ignored_stays_so():
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  with preemption.heeded():
    os.kill(os.getpid(), signal.SIGINT)
    pulse.beat()
  assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_changes_nothing():
  before = [signal.getsignal(n) for n in preemption.SIGNALS]
  seen = []

  def work():
    with preemption.heeded():
      seen.extend(signal.getsignal(n) for n in preemption.SIGNALS)

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == before
