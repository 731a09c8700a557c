"""A million hostile inputs, a process for each target; exit 1 for a bad answer.

  python -m tests.fuzz [--inputs=1000000] [--only=NAME] [--seed=0]

NAME: formula, completion, conversation, config, checkpoint, name. The inputs
are split over the targets; with --only all of them are for one. An input that
was answered as none may be is printed and left in runs/fuzz/NAME.failed; put it
into tests/fuzz/corpus/NAME.jsonl when it is mended. Where atheris is installed,
a tenth as many inputs more are guided by coverage.
"""
import os
import subprocess
import sys

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from rlft import arguments
from tests.fuzz import guided, running, targets


def main(argv: list[str]) -> int:
  """Exit code 0 when every answer was as it may be."""
  try:
    positional, flags, overrides = arguments.parse(argv)
    inputs, only, seed = arguments.take(flags, 'inputs', 'only', 'seed')
    count = arguments.number('inputs', inputs, int, 1_000_000, least=1)
    seed = arguments.number('seed', seed, int, 0)
    if positional or overrides or only not in (None, *targets.TARGETS):
      raise ValueError(f'targets: {", ".join(targets.TARGETS)}')
  except ValueError as error:
    print(f'fuzz: {error}', file=sys.stderr)
    return 2
  if only:
    return one(only, count, seed)
  print(f'{count:,} inputs, seed {seed}; atheris is '
        f'{"here" if guided.present() else "absent: none is guided"}',
        flush=True)
  share = -(-count // len(targets.TARGETS))
  bad = [name for name in targets.TARGETS if not ended_well(name, share, seed)]
  print(f'failed: {", ".join(bad)}' if bad else 'every answer is as it may be')
  return int(bool(bad))


def one(name: str, count: int, seed: int) -> int:
  """A target in this process."""
  try:
    found = running.run(name, count, seed, running.watched(name))
  except running.Failed as error:
    print(f'{name}: {error}\n{error.text[:2000]!r}\nis kept in '
          f'{running.leave(name, error.text)}', file=sys.stderr)
    return 1
  print(running.row(name, found), flush=True)
  if found.growth > running.MOST_GROWTH:
    print(f'{name}: the process grew by {found.growth:.0f} MiB, allowed are '
          f'{running.MOST_GROWTH}', file=sys.stderr)
    return 1
  return 0


def ended_well(name: str, count: int, seed: int) -> bool:
  """A target in a process of its own, whose end says whether all was well."""
  code = subprocess.run([
      sys.executable, '-m', 'tests.fuzz', f'--only={name}',
      f'--inputs={count}', f'--seed={seed}'], check=False).returncode
  if code not in (0, 1) or (code == 1 and running.stuck(name)):
    text = running.last(name)
    print(f'{name}: the process ended with {code} at\n{text[:2000]!r}\nwhich '
          f'is kept in {running.leave(name, text)}', file=sys.stderr)
  return code == 0 and guided.run(name, count // 10, seed)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
