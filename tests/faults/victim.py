"""`rlft`, but something befalls it: python -m tests.faults.victim WHAT ...

WHAT is FATE:PLACE:N[:PROCESS], the N-th time that the place is reached, in one
process of several. A little into it, if the fate is to be killed.
"""
import errno
import os
import signal
import sys
import threading
import time

PLACES = {
    'update': ('rlft.ops.alarms', 'look'),  # it is on its way by then
    'rollout': ('rlft.episodes', '_write'),
    'evaluation': ('rlft.evaluate', 'record'),
    'save': ('rlft.training.checkpoint', 'save'),
    'room': ('rlft.training.store', 'room'),
    'digest': ('rlft.train', 'agree')}


def fate(name: str) -> None:
  """What happens, and when it did."""
  print(f'struck at {time.time()}', flush=True)
  if name == 'killed':
    os.kill(os.getpid(), signal.SIGKILL)
  elif name == 'soon':
    threading.Timer(.02, os.kill, (os.getpid(), signal.SIGKILL)).start()
  elif name in ('SIGTERM', 'SIGINT'):
    os.kill(os.getpid(), getattr(signal, name))
    if 'RLFT_PROCESS_ID' in os.environ:  # or a tiny run may end unheeded:
      time.sleep(3)  # JAX looks for signals once a second, and tells the others
  elif name == 'raises':
    raise RuntimeError('planted')
  elif name in ('full', 'fails'):
    from rlft.training import disk
    raise disk.Unsaved(f'cannot write there: {os.strerror(errno.ENOSPC)}')
  elif name == 'hangs':
    time.sleep(10**6)
  elif name == 'stops':
    os.kill(os.getpid(), signal.SIGSTOP)
  else:
    raise ValueError(name)


def plant(text: str) -> None:
  """Puts a fate in its place."""
  import importlib
  what, place, n, *process = text.split(':')
  if process and os.environ.get('RLFT_PROCESS_ID', '0') != process[0]:
    return
  name, function = PLACES[place]
  module = importlib.import_module(name)
  real, left = getattr(module, function), int(n)

  def struck(*args, **kwargs):
    nonlocal left
    left -= 1
    if left == 0 or (left < 0 and what == 'full'):  # and stays so
      fate(what)
    return real(*args, **kwargs)

  setattr(module, function, struck)


if __name__ == '__main__':
  plant(sys.argv[1])
  from rlft import main
  sys.exit(main.main(sys.argv[2:]))
