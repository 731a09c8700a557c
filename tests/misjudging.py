"""A verifier that does what it is told; in a module, as its process needs."""
import ctypes
import os
import subprocess
import time

from rlft.envs import general_points
from rlft.types import Task, Turn


def respond(task: Task, completions: list[str], *, reward: float = 1.0):
  """What the last completion says: to answer, or not to."""
  says, _, rest = completions[-1].partition(' ')
  if says == 'slowly':
    time.sleep(float(rest))
  elif says == 'forever':
    time.sleep(3600)
  elif says == 'deaf':  # no other thread of its process runs meanwhile
    ctypes.PyDLL(None).sleep(3600)
  elif says == 'raise':
    raise LookupError(rest)
  elif says == 'leave':
    raise SystemExit(3)
  elif says == 'die':
    os._exit(7)
  elif says == 'child':
    child = subprocess.Popen(['sleep', '3600'])
    with open(rest, 'w') as file:
      file.write(str(child.pid))
    time.sleep(3600)
  elif says == 'nothing':
    return None
  elif says == 'nan':
    return Turn('', float('nan'), True, {'wrong': 0.0})
  return Turn(f'{task.prompt} {len(completions)}', reward, says == 'done', {
      'correct' if says == 'done' else 'wrong': reward, 'pid': os.getpid()})


def fussy(task: Task, completions: list[str]) -> Turn:
  """The card game's, but what it cannot read is too much for it."""
  turn = general_points.respond(task, completions)
  if 'format' in turn.parts:
    raise ValueError('cannot read this')
  return turn
