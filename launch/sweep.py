"""Prints one `rlft run` command for each point of a config's `sweep()`.

python launch/sweep.py --config=FILE.py[:VARIANT] --run_dir=DIR

Pipe it into bash to run the points one after another, or into a scheduler. A
point runs in DIR/KEY=VALUE,..., so what is finished is not run again.
"""
import re
import shlex
import sys

from rlft import arguments
from rlft import config as door


def commands(name: str, run_dir: str) -> list[str]:
  """The command lines; ValueError when the config offers no sweep."""
  module = door.module(name.partition(':')[0])
  if not hasattr(module, 'sweep'):
    raise ValueError(f'{name} has no sweep()')
  lines = []
  for point in module.sweep():
    label = ','.join(f'{k}={v}' for k, v in point.items())
    where = f'{run_dir}/{re.sub("[^A-Za-z0-9._=,-]", "_", label)}'
    words = ['rlft', 'run', f'--config={name}', f'--run_dir={where}']
    words += [f'--config.{k}={v}' for k, v in point.items()]
    lines.append(shlex.join(words))
  return lines


if __name__ == '__main__':
  try:
    _, flags, _ = arguments.parse(sys.argv[1:])
    print('\n'.join(commands(*arguments.take(
        flags, 'config', 'run_dir', need=('config', 'run_dir')))))
  except ValueError as error:
    sys.exit(f'sweep: {error}')
