"""The pulse of long work: it says that it goes on, and hears that it must not.

Whoever works for long calls `beat` between its pieces, where nothing is half
done; a listener may raise there to end the work.
"""
import contextlib
from collections.abc import Callable, Iterator

_listeners: list[Callable[[], None]] = []


def beat() -> None:
  """Tells every listener that the work goes on."""
  for listener in tuple(_listeners):
    listener()


@contextlib.contextmanager
def listening(listener: Callable[[], None]) -> Iterator[None]:
  """`listener` is called at every beat inside."""
  _listeners.append(listener)
  try:
    yield
  finally:
    _listeners.remove(listener)
