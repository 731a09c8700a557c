"""A signal is heeded at a beat, once; a second acts as it did before."""
import itertools
import os
import signal
import threading

import jax
import pytest
from jax.experimental import multihost_utils
from orbax.checkpoint._src.multihost import multihost

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


def test_of_several_processes_only_beats_are_counted(monkeypatch):
  """Orbax asks, too, by the number of a step: that would shift the beats."""
  asked = []
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(
      multihost_utils, 'reached_preemption_sync_point',
      lambda beat: asked.append(beat) or len(asked) == 3)
  monkeypatch.setattr(preemption, '_ticks', itertools.count(10))
  with (pytest.raises(preemption.Preempted, match='one of the processes'),
        preemption.heeded()):
    for step in range(5):
      pulse.beat()
      assert not multihost.reached_preemption(step)
  assert asked == [10, 11, 12]
  assert multihost_utils.reached_preemption_sync_point(0) is False
  assert asked == [10, 11, 12, 0]
