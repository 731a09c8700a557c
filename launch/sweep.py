"""Prints one `rlft run` command for each point of a config's `sweep()`.

python launch/sweep.py --config=FILE.py[:VARIANT] --run_dir=DIR
    [--config.KEY=VALUE ...]

Pipe it into bash to run the points one after another, or into a scheduler. A
point runs in DIR/KEY=VALUE,..., so what is finished is not run again.
"""
import re
import shlex
import sys
from collections.abc import Mapping

from rlft import arguments
from rlft import config as door


def commands(
    name: str, run_dir: str, overrides: Mapping[str, str] = {}) -> list[str]:
  """The command lines, each with the overrides as well.

  ValueError when the config offers no sweep, or one sets what a point does.
  """
  module = door.module(name.partition(':')[0])
  if not hasattr(module, 'sweep'):
    raise ValueError(f'{name} has no sweep()')
  lines = []
  for point in module.sweep():
    label = ','.join(f'{k}={v}' for k, v in point.items())
    where = f'{run_dir}/{re.sub("[^A-Za-z0-9._=,-]", "_", label)}'
    words = ['rlft', 'run', f'--config={name}', f'--run_dir={where}']
    twice = sorted(set(point) & set(overrides))
    if twice:
      raise ValueError(f'--config.{twice[0]}: the sweep sets it')
    words += [f'--config.{k}={v}' for k, v in {**point, **overrides}.items()]
    lines.append(shlex.join(words))
  return lines


if __name__ == '__main__':
  try:
    positional, flags, more = arguments.parse(sys.argv[1:])
    if positional:
      raise ValueError(f'it takes flags only, not {positional[0]!r}')
    print('\n'.join(commands(*arguments.take(
        flags, 'config', 'run_dir', need=('config', 'run_dir')), more)))
  except ValueError as error:
    print(f'sweep: {error}', file=sys.stderr)
    sys.exit(2)
