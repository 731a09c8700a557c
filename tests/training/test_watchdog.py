"""Silence is found; beats, compilations and the end of the work are heard."""
import threading
import time

import jax
import jax.numpy as jnp
import pytest

from rlft import pulse
from rlft.training import watchdog


@pytest.fixture
def ended(monkeypatch):
  """What the watchdog would have said, instead of ending these tests."""
  said = []

  def end(why):
    said.append(why)
    time.sleep(.5)  # once is enough

  monkeypatch.setattr(watchdog, 'end', end)
  return said


def deadlines(monkeypatch, start, stall):
  monkeypatch.setenv(watchdog.STARTUP, str(start))
  monkeypatch.setenv(watchdog.STALL, str(stall))


def test_silence_after_the_first_step_is_found(monkeypatch, ended):
  deadlines(monkeypatch, 1000, 1)
  with watchdog.watching() as settled:
    time.sleep(1.5)
    assert not ended  # the first step has a deadline of its own
    settled()
    time.sleep(1.5)
  assert len(ended) == 1 and 'RLFT_STALL_SECONDS=1 allows' in ended[0]


def test_silence_before_it_as_well(monkeypatch, ended):
  deadlines(monkeypatch, 1, 1000)
  with watchdog.watching():
    time.sleep(1.5)
  assert len(ended) == 1 and 'RLFT_STARTUP_SECONDS=1 allows' in ended[0]


@pytest.mark.parametrize('sound', ['beat', 'compilation'])
def test_what_goes_on_is_heard(monkeypatch, ended, sound):
  deadlines(monkeypatch, 1000, 1)
  with watchdog.watching() as settled:
    settled()
    for i in range(4):
      time.sleep(.5)
      if sound == 'beat':
        pulse.beat()
      else:
        jax.jit(lambda x, i=i: x * (i + 1.5))(jnp.zeros(7 + i))
  assert not ended


def test_no_time_at_all_is_refused(monkeypatch):
  deadlines(monkeypatch, 10, 0)
  with (pytest.raises(ValueError, match='RLFT_STALL_SECONDS=0: give 1'),
        watchdog.watching()):
    pass


def test_a_lone_process_is_not_watched_unless_it_is_asked(monkeypatch):
  monkeypatch.delenv(watchdog.STARTUP, raising=False)
  monkeypatch.delenv(watchdog.STALL, raising=False)
  with watchdog.watching():
    names = {thread.name for thread in threading.enumerate()}
  assert 'watchdog' not in names


def test_it_ends_with_what_it_watched(monkeypatch, ended):
  deadlines(monkeypatch, 1, 1)
  with watchdog.watching():
    pass
  time.sleep(1.5)
  assert not ended
  assert 'watchdog' not in {t.name for t in threading.enumerate()}
