"""The command `rlft`: run, eval, sample, compare, heal, import, export, plan,
report.
"""
import contextlib
import ctypes
import os
import re
import shlex
import signal
import sys
import threading
import traceback
from pathlib import Path

from rlft import arguments
from rlft.usage import USAGE

COMMANDS = ('run', 'eval', 'sample', 'compare', 'heal', 'import', 'export',
            'plan', 'report')
MMAP_THRESHOLD = -3  # of malloc.h: larger blocks go back when they are freed
TOGETHER = 0, 42  # exit codes that all processes of a run end with
# How XLA begins what a lost peer makes it raise, as a ValueError on CPUs.
TRANSPORT = re.compile('(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|'
                       'DEADLINE_EXCEEDED): ')
WHOLE = ('heal', 'import', 'export')  # what they write, they write whole


def main(argv: list[str] | None = None) -> int:
  """Exit code 0, or another with one line that says what to do."""
  argv = sys.argv[1:] if argv is None else argv
  if not argv or {'-h', '--help'} & set(argv):
    tell(usage(argv[0] if argv else ''))
    return 0
  if argv[0] == 'run' and os.environ.get('RLFT_COORDINATOR'):
    return one_of_several(argv)
  return command(argv)


def tell(text: str) -> None:
  """Prints, to whoever may have stopped to read: `rlft --help | head`."""
  try:
    print(text, flush=True)
  except BrokenPipeError:  # nor does Python try again as it ends
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def usage(name: str) -> str:
  """How to call a command, or all of them."""
  commands, notes = USAGE.rsplit('\n\n', 1)
  found = [part for part in commands.split('\n  rlft ')[1:]
           if part.split()[0] == name]
  return f'usage: rlft {found[0]}\n\n{notes}' if found else USAGE


def one_of_several(argv: list[str]) -> int:
  """`command` in a process of several, which end with it if it fails.

  Left to itself a process that fails would wait for the others before it ends,
  and they for it.
  """
  code = 41
  try:
    from rlft.training import multihost
    multihost.join()
    code = command(argv)
  except ValueError as error:
    print(f'rlft: {error}', file=sys.stderr)
    code = 2
  except Exception as error:
    if hasattr(error, 'exit_code'):  # says itself what to do
      print(f'rlft: {error}', file=sys.stderr)
    else:
      traceback.print_exc()
  except BaseException:
    traceback.print_exc()
  if code not in TOGETHER:
    print(f'rlft: this process has failed: exit code {code}',
          file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  return code


def command(argv: list[str]) -> int:
  """One command."""
  try:
    if argv[0] not in COMMANDS:
      raise ValueError(f'no command {argv[0]}; known: {", ".join(COMMANDS)}')
    positional, flags, overrides = arguments.parse(argv[1:])
    return {
        'run': run, 'eval': evaluate, 'sample': sample, 'compare': compare,
        'heal': heal, 'import': take_in, 'export': give_out,
        'plan': plan, 'report': report}[argv[0]](positional, flags, overrides)
  except (ValueError, OSError) as error:
    if os.environ.get('RLFT_TRACEBACK'):
      raise
    print(f'rlft: {" ".join(str(error).split())}', file=sys.stderr)
    lost = TRANSPORT.match(str(error))
    return getattr(error, 'exit_code', 41 if lost else 2)
  except KeyboardInterrupt as error:
    after = 'nothing is written' if argv[0] in WHOLE else (
        'the same command goes on')
    print(f'rlft: {str(error) or "interrupted"}; {after}', file=sys.stderr)
    return getattr(error, 'exit_code', 130)


def run(positional, flags, overrides) -> int:
  """`rlft run`."""
  if positional:
    raise ValueError(f'run takes flags only, not {positional[0]!r}')
  name, run_dir = arguments.take(
      flags, 'config', 'run_dir', need=('config', 'run_dir'))
  from rlft import api
  words = ['rlft', 'run', *(f'--{k}={v}' for k, v in flags.items()),
           *(f'--config.{k}={v}' for k, v in overrides.items())]
  print(api.start(name, run_dir, overrides, command=shlex.join(words)))
  return 0


def evaluate(positional, flags, overrides) -> int:
  """`rlft eval`."""
  import json

  import rlft
  if len(positional) != 1:
    raise ValueError('eval takes one checkpoint: RUN_DIR@STEP or asset:NAME')
  name, out = arguments.take(flags, 'config', 'out')
  if out:
    arguments.writable(Path(out))
  rows = rlft.scores(positional[0], config=name, **overrides)
  for row in rows:
    print(f'{row["eval"]:24s} {100 * row["success"]:6.2f} %  '
          f'[{100 * row["low"]:.2f}, {100 * row["high"]:.2f}]  n={row["n"]}')
  if out:
    Path(out).write_text(json.dumps(rows, indent=1) + '\n')
  return 0


def sample(positional, flags, overrides) -> int:
  """`rlft sample`."""
  import rlft
  if not positional or overrides:
    raise ValueError('sample takes a checkpoint, then prompts; no --config.*')
  temperature, seed, tokens = arguments.take(
      flags, 'temperature', 'seed', 'max_new_tokens')
  talk = rlft.sampler(
      positional[0],
      temperature=arguments.number('temperature', temperature, float, 0),
      max_new_tokens=arguments.number(
          'max_new_tokens', tokens, int, 20, least=1),
      seed=arguments.number('seed', seed, int, 0))
  prompts = positional[1:] or typed()
  for prompt in prompts:
    print(talk(prompt), flush=True)
  return 0


def compare(positional, flags, overrides) -> int:
  """`rlft compare`."""
  save_memory()
  import rlft
  from rlft import comparison
  before, after = arguments.two('compare', positional, overrides)
  out, select, top, draws, seed = arguments.take(
      flags, 'out', 'select', 'top', 'draws', 'seed', need=('out',))
  found = rlft.compare(
      before, after, out=out, select=select,
      top=arguments.number('top', top, float, 0.2),
      draws=arguments.number('draws', draws, int, 4, least=1),
      seed=arguments.number('seed', seed, int, 0))
  print(comparison.told(found), found['page'], sep='\n')
  return 0


def heal(positional, flags, overrides) -> int:
  """`rlft heal`."""
  save_memory()
  import rlft
  from rlft.healing import flags as words
  before, after = arguments.two('heal', positional, overrides)
  own = ('out', 'edit', 'select', 'seed', 'dry_run')
  options = {k: v for k, v in flags.items() if k not in own}
  out, edit, select, seed, dry_run = arguments.take(
      {'edit': 'vectors', **{k: v for k, v in flags.items() if k in own}},
      *own, need=('out', 'edit'))
  with ending():
    found = rlft.heal(
        before, after, out, edit=edit, select=select,
        seed=arguments.number('seed', seed, int, 0),
        dry_run=arguments.truth('dry_run', dry_run),
        **words.parse(edit, options))
  print(words.told(found))
  return 0


def take_in(positional, flags, overrides) -> int:
  """`rlft import`."""
  from rlft import exchange
  out, = arguments.take(flags, 'out', need=('out',))
  if len(positional) != 1 or overrides:
    raise ValueError('import takes one directory: rlft import HF_DIR --out=...')
  with ending():
    found = exchange.take(positional[0], out)
  print(f'{found["checkpoint"]}: {found["parameters"]:,} parameters')
  return 0


def give_out(positional, flags, overrides) -> int:
  """`rlft export`."""
  from rlft import exchange
  out, like = arguments.take(flags, 'out', 'like', need=('out',))
  if len(positional) != 1 or overrides:
    raise ValueError(
        'export takes one checkpoint: rlft export RUN_DIR@STEP --out=...')
  with ending():
    found = exchange.give(positional[0], out, like=like)
  print(f'{found["out"]}: {found["tensors"]} tensors, as {found["like"]}')
  return 0


def plan(positional, flags, overrides) -> int:
  """`rlft plan`."""
  import json

  from rlft import config as door
  from rlft import inherit, planning
  if positional:
    raise ValueError(f'plan takes flags only, not {positional[0]!r}')
  name, topology, wanted, out = arguments.take(
      flags, 'config', 'topology', 'programs', 'out', need=('config',))
  if out:
    arguments.writable(Path(out))
  config = door.load(name, overrides)
  inherit.fill(config)
  rows = []
  for row in planning.plan(
      config, topology or '', tuple(wanted.split(',')) if wanted else ()):
    rows.append(row)
    print(planning.told(row), flush=True)
  if out:
    Path(out).write_text(json.dumps({'programs': rows}, indent=1) + '\n')
  return 0 if all(row['fits'] for row in rows) else 3


@contextlib.contextmanager
def ending():
  """SIGTERM ends what is inside as Ctrl-C does: what is half written goes."""
  if threading.current_thread() is not threading.main_thread():
    yield  # which alone may say what a signal does
    return
  before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)


def save_memory() -> None:
  """Little memory rather than much at the same time, on CPUs.

  XLA schedules for concurrency unless told otherwise, JAX begins the next
  program while the last one still lets go of its memory, and glibc keeps freed
  matrices of up to 32 MiB in a heap of holes. XLA reads its flags once, so this
  is for a process that has not used JAX yet.
  """
  flag = '--xla_cpu_enable_concurrency_optimized_scheduler'
  flags = os.environ.get('XLA_FLAGS', '')
  if 'jax' not in sys.modules and flag not in flags:
    os.environ['XLA_FLAGS'] = f'{flags} {flag}=false'.strip()
    os.environ.setdefault('JAX_CPU_ENABLE_ASYNC_DISPATCH', 'false')
  allocator = ctypes.CDLL(None) if sys.platform == 'linux' else None
  if hasattr(allocator, 'mallopt'):
    allocator.mallopt(MMAP_THRESHOLD, 2**20)


def typed():
  """Prompts from standard input, one per line, until it ends."""
  while True:
    try:
      line = input('> ' if sys.stdin.isatty() else '')
    except EOFError:
      return
    if line.strip():
      yield line


def report(positional, flags, overrides) -> int:
  """`rlft report`."""
  import rlft
  arguments.take(flags)
  if len(positional) != 1 or overrides:
    raise ValueError('report takes one study directory')
  print(rlft.write_report(positional[0]))
  return 0


if __name__ == '__main__':
  sys.exit(main())
