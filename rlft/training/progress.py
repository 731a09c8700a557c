"""Progress of long work: a bar on a terminal, plain lines elsewhere."""
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import tqdm

from rlft.training import multihost

EVERY = 10.0  # seconds between plain lines


def track(items: Iterable, *, name: str, total: int, start: int = 0
          ) -> Iterator[Any]:
  """Yields the items, telling how many a second and how long there is to go."""
  if sys.stderr.isatty():
    yield from tqdm.tqdm(
        items, desc=name, total=total, initial=start, leave=False)
    return
  began = said = time.monotonic()
  for done, item in enumerate(items, start=1):
    yield item
    now = time.monotonic()
    if now - said >= EVERY and start + done < total:
      said = now
      rate = done / (now - began)
      left = (total - start - done) / rate
      say(f'{name}: {start + done}/{total}, {rate:.2f}/s, {left:.0f} s left')


def say(line: str) -> None:
  """One line to the person who waits, clear of any bar, from one process."""
  if not multihost.leads():
    return
  tqdm.tqdm.write(line, file=sys.stderr)
  sys.stderr.flush()
