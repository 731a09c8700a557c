"""Several processes that make one run: who leads, and whether all agree.

Every process runs the same program on the same numbers; the first one alone
writes files. What is read from files, which the first one may just be writing,
is read by it and told to the others (`told`): otherwise they could part ways.
"""
import functools
import hashlib
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

COORDINATOR, COUNT, INDEX = (
    'RLFT_COORDINATOR', 'RLFT_NUM_PROCESSES', 'RLFT_PROCESS_ID')
HEARTBEAT, JOIN = 'RLFT_HEARTBEAT_SECONDS', 'RLFT_JOIN_SECONDS'
AUTO = 'auto'  # the coordinator that a cluster knows by itself
SHUTDOWN_SECONDS = 60


class Disagreement(RuntimeError):
  """The processes of one run are not doing the same."""
  exit_code = 41


def join() -> bool:
  """Joins the processes that the environment names; whether there are any.

  RLFT_COORDINATOR=HOST:PORT with RLFT_NUM_PROCESSES and RLFT_PROCESS_ID, or
  RLFT_COORDINATOR=auto on clusters that JAX knows (TPU pods, Slurm, Open MPI).
  Before anything else asks for devices. ValueError for half of them.
  """
  where = os.environ.get(COORDINATOR, '')
  if not where:
    return False
  times = dict(
      heartbeat_timeout_seconds=number(HEARTBEAT, 100),
      initialization_timeout=number(JOIN, 600),
      shutdown_timeout_seconds=SHUTDOWN_SECONDS)
  if where == AUTO:
    jax.distributed.initialize(**times)
    return _joined()
  count, index = number(COUNT), number(INDEX)
  if not 0 <= index < count:
    raise ValueError(f'{INDEX}={index} of {COUNT}={count}: they count from 0')
  if index == 0:
    _free(where)
  jax.distributed.initialize(
      where, num_processes=count, process_id=index,
      # by default it would listen on every network that the machine is in
      coordinator_bind_address=where if index == 0 else None, **times)
  return _joined()


def _free(where: str) -> None:
  """ValueError unless HOST:PORT can be listened on; JAX would crash."""
  host, _, port = where.rpartition(':')
  try:
    if not 0 < int(port) < 2**16:
      raise ValueError(f'no port is {port}')
    family, kind, _, _, address = socket.getaddrinfo(
        host.strip('[]'), int(port), type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as trial:
      # what another run has just left is free
      trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      trial.bind(address)
      trial.listen()
  except (OSError, OverflowError, ValueError) as error:
    raise ValueError(
        f'{COORDINATOR}={where}: this process is to listen there and cannot '
        f'({getattr(error, "strerror", None) or error}): give an address of '
        'this machine and a free port') from error


def _joined() -> bool:
  threading.excepthook = _fail
  # The first collective on CPUs waits 30 s for the others and no longer, so it
  # is made here, where all have just come.
  meet('joined')
  return True


def _fail(told: Any) -> None:
  """What ends a thread ends the process, and so its whole run."""
  sys.__excepthook__(told.exc_type, told.exc_value, told.exc_traceback)
  sys.stderr.flush()
  os._exit(Disagreement.exit_code)


def number(name: str, default: int | None = None) -> int:
  """A whole number from the environment; ValueError without one."""
  text = os.environ.get(name, '' if default is None else str(default))
  if not text.isdecimal():
    raise ValueError(f'{name}={text!r}: set it to a whole number')
  return int(text)


def leads() -> bool:
  """Whether this process is the one that writes files."""
  return jax.process_index() == 0


def told(read: Callable[[], Any]) -> Any:
  """What `read` gives in the first process, in all of them; plain JSON."""
  if jax.process_count() == 1:
    return read()
  data = json.dumps(read()).encode() if leads() else b''
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
  buffer = np.zeros(size, np.uint8)
  if leads():
    buffer[:] = np.frombuffer(data, np.uint8)
  return json.loads(bytes(multihost_utils.broadcast_one_to_all(buffer)))


def meet(name: str) -> None:
  """Waits until every process is here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def agree(said: Mapping[str, Any]) -> None:
  """Disagreement, naming the fields, unless all processes say the same."""
  if jax.process_count() == 1:
    return
  names = sorted(said)
  marks = np.stack([_mark(said[name]) for name in names])
  everybody = multihost_utils.process_allgather(marks)
  odd = [name for i, name in enumerate(names)
         if (everybody[:, i] != everybody[0, i]).any()]
  if odd:
    who = [int(i) for i in np.flatnonzero(
        (everybody != everybody[:1]).any(axis=(1, 2)))]
    raise Disagreement(
        f'the processes differ in {", ".join(odd)}: {who} from the first one, '
        'so that what follows would be garbage; start all of them with the '
        'same code, config and files')


def _mark(value: Any) -> np.ndarray:
  text = json.dumps(value, sort_keys=True, default=str)
  return np.frombuffer(
      hashlib.sha256(text.encode()).digest()[:16], np.uint32)


@functools.cache
def code_version() -> str:
  """A hash of the library's own files."""
  root = Path(__file__).parents[1]
  total = hashlib.sha256()
  for path in sorted(root.rglob('*.py')):
    total.update(f'{path.relative_to(root)}\0'.encode() + path.read_bytes())
  return total.hexdigest()
