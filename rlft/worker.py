"""What a process does that judges completions for another one.

It imports little: the function that judges, and what that needs. See
`verifiers.py`, which starts it, for what is promised.
"""
import contextlib
import ctypes
import json
import math
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

from rlft import spelled
from rlft.types import Task, Turn

PR_SET_PDEATHSIG = 1  # of sys/prctl.h


def serve(line: connection.Connection) -> None:
  """What a worker does until it is killed or whoever started it is gone."""
  if sys.platform == 'linux':  # also where a verifier lets no thread run
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
  try:
    respond = spelled.read(line.recv_bytes())
  except Exception as error:
    line.send_bytes(_reason(error).encode())
    return
  line.send_bytes(b'')
  inbox: queue.SimpleQueue = queue.SimpleQueue()

  def listen():
    with contextlib.suppress(EOFError, ConnectionError):
      while True:
        inbox.put(line.recv_bytes())
    os.killpg(0, signal.SIGKILL)  # nobody waits for an answer any more

  threading.Thread(target=listen, daemon=True).start()
  while True:
    item = inbox.get()
    line.send_bytes(json.dumps(judged(respond, *spelled.read(item))).encode())


def judged(respond: Callable, task: Task, completions: list[str]
           ) -> dict[str, Any]:
  """A turn as plain values, or why there is none."""
  try:
    turn = respond(task, completions)
    if not isinstance(turn, Turn) or not math.isfinite(turn.reward):
      raise TypeError(f'no turn with a finite reward: {turn!r:.200}')
    json.dumps(turn._asdict(), allow_nan=False)
    return turn._asdict()
  except BaseException as error:
    return {'raised': _reason(error)}


def _reason(error: BaseException) -> str:
  return f'{type(error).__name__}: {error}'[:500]


if __name__ == '__main__':
  serve(connection.Connection(int(sys.argv[1])))
