"""Several processes of one run on this machine; they live and die together.

python launch/local.py -n 2 [--devices=1] [--logs=DIR] [--grace=5] -- COMMAND

Each has its own RLFT_PROCESS_ID; its output goes to DIR/N.log, and the first
one's to the terminal as well. When one fails the others are ended, with SIGKILL
after `grace` seconds (once they have joined, SIGTERM only asks them to save),
and its exit code is this one's. SIGTERM and Ctrl-C are handed to all.
"""
import argparse
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator


def free_port() -> int:
  """A port of this machine that nobody listens on."""
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    return found.getsockname()[1]


def environment(index: int, count: int, port: int, devices: int) -> dict:
  """That of one process."""
  threads = str(max(1, (os.cpu_count() or 1) // count))
  return {
      **os.environ, 'RLFT_COORDINATOR': f'127.0.0.1:{port}',
      'RLFT_NUM_PROCESSES': str(count), 'RLFT_PROCESS_ID': str(index),
      'JAX_NUM_CPU_DEVICES': str(devices),
      'OMP_NUM_THREADS': os.environ.get('OMP_NUM_THREADS', threads),
      'OPENBLAS_NUM_THREADS': os.environ.get('OPENBLAS_NUM_THREADS', threads)}


def start(
    command: list[str], count: int, devices: int, logs: pathlib.Path,
) -> list[subprocess.Popen]:
  """The processes, each the leader of a group of its own."""
  port = free_port()
  logs.mkdir(parents=True, exist_ok=True)
  started = []
  for index in range(count):
    with (logs / f'{index}.log').open('wb') as log:
      started.append(subprocess.Popen(
          command, env=environment(index, count, port, devices),
          stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
          start_new_session=True))
  return started


def send(processes: list[subprocess.Popen], number: int) -> None:
  """A signal to those that still run, and to all that they started."""
  for process in processes:
    if process.poll() is None:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def wait(processes: list[subprocess.Popen], grace: float) -> int:
  """The exit code of the first that fails, or else 0, or 42; all have ended."""
  ended = []
  while len(ended) < len(processes):
    for process in processes:
      if process not in ended and process.poll() is not None:
        ended.append(process)
    if any(p.returncode not in (0, 42) for p in ended):
      deadline = time.monotonic() + grace
      send(processes, signal.SIGTERM)
      while time.monotonic() < deadline and any(
          p.poll() is None for p in processes):
        time.sleep(.05)
      send(processes, signal.SIGKILL)
      break
    time.sleep(.05)
  # Of several at once a process that was killed is the cause, and one that
  # aborts, as JAX does when it misses another, is not.
  failed = sorted(
      (p.returncode for p in ended if p.returncode not in (0, 42)),
      key=lambda code: (code == -signal.SIGABRT, code > 0))
  for process in processes:
    process.wait()
  code = failed[0] if failed else max(p.returncode for p in processes)
  return 128 - code if code < 0 else code


@contextlib.contextmanager
def shown(path: pathlib.Path) -> Iterator[None]:
  """What is written into a file meanwhile also goes to the terminal."""
  ended = threading.Event()

  def follow():
    with path.open('rb') as file:
      while True:
        last = ended.is_set()
        sys.stdout.buffer.write(file.read())
        sys.stdout.flush()
        if last:
          return
        ended.wait(.1)

  thread = threading.Thread(target=follow)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()


def main(argv: list[str]) -> int:
  """The exit code of the run; the logs of what failed are told."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('-n', type=int, default=2, help='processes')
  parser.add_argument('--devices', type=int, default=1, help='CPUs of each')
  parser.add_argument('--logs', type=pathlib.Path)
  parser.add_argument('--grace', type=float, default=5.0, help='seconds')
  parser.add_argument('command', nargs=argparse.REMAINDER)
  options = parser.parse_args(argv)
  command = options.command[options.command[:1] == ['--']:]
  if not command or options.n < 1:
    parser.error('give a command: launch/local.py -n 2 -- rlft run ...')
  logs = options.logs or pathlib.Path(tempfile.mkdtemp(prefix='rlft-'))
  processes = start(command, options.n, options.devices, logs)
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: send(processes, signal.SIGTERM))
  try:
    with shown(logs / '0.log'):
      code = wait(processes, options.grace)
  finally:
    send(processes, signal.SIGKILL)
  if code:
    told = ', '.join(str(p.returncode) for p in processes)
    print(f'local: exit codes {told}; logs in {logs}', file=sys.stderr)
  return code


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
