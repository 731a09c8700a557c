"""What a launcher is asked for, checked, as lines that bash can read.

python3 launch/request.py TOOL run|study CONFIG.py[:VARIANT] \\
    --accelerator=v5e:16x16 --run_dir=gs://BUCKET/FOLDER [--name=NAME]
    [--restarts=10] [--config.KEY=VALUE ...] and what the TOOL needs

prints KEY=VALUE for each option and WORD=... for each word of the command. It
is the one place that judges what a caller typed; nothing of it is evaluated.
"""
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import accelerators

try:
  from rlft import arguments, rows
  from rlft import config as door
except ModuleNotFoundError as missing:
  print(f'launch: python3 has no {missing.name}: activate the environment in '
        'which rlft runs', file=sys.stderr)
  sys.exit(2)

LABEL = r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?'
WORD = r'[A-Za-z0-9][A-Za-z0-9_.-]{0,62}'
PATH = r'[A-Za-z0-9_][A-Za-z0-9_.=,-]*(/[A-Za-z0-9_][A-Za-z0-9_.=,-]*)*'
BUCKET = rf'gs://[a-z0-9][a-z0-9_.-]{{1,61}}[a-z0-9]/{PATH}'
FORMS = {  # what an option must match in whole, and how to say so
    'config': (rf'{PATH}\.py(:[A-Za-z0-9_.,-]+)?',
               'FILE.py or FILE.py:VARIANT, below this directory'),
    'run_dir': (rf'{BUCKET}|/?{PATH}',
                'a directory or gs://BUCKET/FOLDER of plain letters'),
    'name': (LABEL, 'up to 40 small letters, digits and -, a letter first'),
    'restarts': (r'0|[1-9]\d{0,2}', 'a whole number below 1000'),
    'image': (r'[a-z0-9][a-z0-9._-]*(:\d+)?(/[a-z0-9][a-z0-9._-]*)*'
              r'(:[A-Za-z0-9_][A-Za-z0-9._-]*|@sha256:[0-9a-f]{64})?',
              'HOST/PATH:TAG of a container image'),
    'zone': (r'[a-z]+-[a-z]+\d+-[a-z]', 'a zone, us-west4-a'),
    'project': (r'[a-z][-a-z0-9]{4,28}[a-z0-9]', "a project's id"),
    'cluster': (LABEL, "a cluster's name"),
    'queue': (LABEL, "a Kueue queue's name"),
    'service_account': (r'[a-z][-a-z0-9]*(@[a-z0-9.-]+)?',
                        "a service account's name"),
    'patience': (r'[1-9]\d{0,2}[hm]', 'hours or minutes, 6h'),
    'partition': (WORD, "a partition's name"),
    'account': (WORD, "an account's name"),
    'gpu_type': (WORD, 'what the site calls its GPUs, h100'),
    'cpus': (r'[1-9]\d{0,2}', 'CPUs of each process, 16'),
    'memory': (r'[1-9]\d{0,5}[MGT]', 'memory of each node, 100G'),
    'time': (r'(\d{1,2}-)?\d{1,3}:\d\d:\d\d', 'HH:MM:SS or D-HH:MM:SS'),
    'spot': ('true|false', 'true or false'),
    'delete': ('true|false', 'true or false'),
}
DEFAULTS = {'restarts': '10', 'spot': 'false', 'delete': 'false'}
ALL = ('accelerator', 'run_dir', 'name', 'restarts')


class Tool(NamedTuple):
  """What a launcher can be told beside what all of them can."""
  kind: str  # of accelerators
  need: tuple[str, ...] = ()
  may: tuple[str, ...] = ()


TOOLS = {
    'tpu_vm': Tool('tpu', ('zone', 'project', 'image'),
                   ('spot', 'delete', 'patience', 'service_account')),
    'gke': Tool('tpu', ('image',), ('queue', 'service_account', 'spot')),
    'xpk': Tool('tpu', ('cluster', 'zone', 'project', 'image')),
    'slurm': Tool('gpu', (), ('partition', 'account', 'time', 'gpu_type',
                              'cpus', 'memory')),
}


class Request(NamedTuple):
  """A run to be launched."""
  options: dict[str, str]
  accelerator: accelerators.Accelerator
  command: list[str]  # rlft run ...


def read(tool: str, argv: list[str]) -> Request:
  """ValueError says what of the words is wrong, and what to write."""
  offered = TOOLS[tool]
  positional, flags, overrides = arguments.parse(argv)
  if len(positional) != 2 or positional[0] not in ('run', 'study'):
    raise ValueError('say run CONFIG.py or study CONFIG.py, then the options')
  kind, name = positional
  names = (*ALL, *offered.need, *offered.may)
  arguments.take(
      flags, *names, need=('accelerator', 'run_dir', *offered.need))
  found = accelerators.find(flags['accelerator'], offered.kind)
  options = {key: flags.get(key, DEFAULTS.get(key, '')) for key in names
             if key != 'accelerator'}
  options['name'] = options['name'] or _name(options['run_dir'])
  _check({'config': name, **{k: v for k, v in options.items() if v}})
  if offered.kind == 'tpu' and not options['run_dir'].startswith('gs://'):
    raise ValueError(f'--run_dir={options["run_dir"]}: the hosts share no disk '
                     'and go away; write gs://BUCKET/FOLDER')
  _check_config(kind, name, overrides, found.chips)
  command = ['rlft', 'run', f'--config={name}',
             f'--run_dir={options["run_dir"]}',
             *(f'--config.{k}={v}' for k, v in overrides.items())]
  return Request(options, found, command)


def _name(run_dir: str) -> str:
  """The last folder as a name, where it gives one."""
  return re.sub('[^a-z0-9]+', '-', run_dir.rpartition('/')[2].lower())


def _check(options: dict[str, str]) -> None:
  for key, value in options.items():
    form, said = FORMS[key]
    if not re.fullmatch(form, value, re.ASCII):
      flag = '' if key == 'config' else f'--{key}='
      raise ValueError(f'{flag}{value!r}: write {said}')


def _check_config(
    kind: str, name: str, overrides: dict[str, str], chips: int) -> None:
  """ValueError for what the run would refuse, before machines are asked for."""
  for key, value in overrides.items():
    if not value.isprintable():
      raise ValueError(f'--config.{key}={value!r} is more than one line')
  if not Path(name.partition(':')[0]).is_file():
    raise ValueError(f'no config file {name.partition(":")[0]}')
  config = door.load(name, overrides)
  if kind == 'study' and 'stages' not in config:
    raise ValueError(f'{name} is one run and no study: say run {name}')
  stages = {n: config.stages[n].config for n in config.order} if (
      'stages' in config) else {'': config}
  for stage, section in stages.items():
    try:
      rows.split(section, chips)
    except ValueError as error:
      where = f'stage {stage}: ' if stage else ''
      raise ValueError(f'{where}{error}; this has {chips} chips') from error


def lines(request: Request) -> list[str]:
  """KEY=VALUE of each option and of its accelerator; the words at the end."""
  row = request.accelerator
  values = {
      **request.options, 'type': row.gcloud, 'runtime': row.family.runtime,
      'hosts': row.hosts, 'chips_per_host': row.chips_per_host,
      'processes': row.processes}
  return [*(f'{key}={value}' for key, value in values.items()),
          *(f'ENV={k}={v}' for k, v in row.environment.items()),
          *(f'WORD={word}' for word in request.command)]


def main(argv: list[str]) -> int:
  """Exit code 2 and one line for what cannot be launched."""
  if not argv or argv[0] not in TOOLS:
    print(f'launch: name one of {", ".join(TOOLS)} first', file=sys.stderr)
    return 2
  return answer(lambda: '\n'.join(lines(read(argv[0], argv[1:]))))


def answer(make: Callable[[], str]) -> int:
  """Prints it; exit code 2 and one line for what cannot be launched."""
  try:
    print(make())
  except (ValueError, OSError) as error:
    print(f'launch: {" ".join(str(error).split())}', file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
