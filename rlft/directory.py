"""A run directory: claimed by one process, and what explains it."""
import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import flax
import jax
import ml_collections
import optax
import orbax.checkpoint

import rlft
from rlft import config as door
from rlft import paths
from rlft.ops import attention
from rlft.training import claims, disk, multihost, store

LOCK, COMMAND, GIT, MACHINE = '.lock', 'command.txt', 'git.txt', 'machine.txt'
RECORDS = (LOCK, 'config.json', COMMAND, GIT, MACHINE)
CODE = ('rlft', 'configs')  # folders whose files decide what a run does


@contextlib.contextmanager
def claim(run_dir: store.Where) -> Iterator[None]:
  """Makes the directory and keeps other processes out while it is open.

  The system drops the lock when the process ends, however it ends; where the
  file system has no locks there is none, and in a bucket the last who comes has
  it (`claims.claimed`). ValueError when the directory cannot be written to, is
  another process's or has links that lead out of it. After a ValueError inside,
  a directory that holds nothing but records is removed: what was refused is not
  begun.
  """
  if not store.is_remote(run_dir):
    paths.enclosed(run_dir)
  made, fresh = prepare(run_dir)
  with hold(run_dir):
    try:
      with store.flushed():
        yield
    except claims.Ousted:  # nothing there is ours any more
      raise
    except ValueError:
      if fresh and multihost.leads():
        forget(run_dir, made)
      raise


@contextlib.contextmanager
def hold(run_dir: store.Where) -> Iterator[None]:
  """The lock; of several processes of one run the first answers for all."""
  if store.is_remote(run_dir):
    with (claims.claimed(run_dir / LOCK) if multihost.leads()
          else contextlib.nullcontext()):
      yield
    return
  with (run_dir / LOCK).open('a') as file:
    if multihost.leads() and not lock(file):
      raise ValueError(
          f'another process is at work in {run_dir}: wait for it, or choose '
          'another --run_dir')
    yield


def lock(file: IO[str]) -> bool:
  """Whether nobody else holds this file."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError:  # no locks on this file system
    return True
  return True


def prepare(run_dir: store.Where) -> tuple[list[store.Where], bool]:
  """Makes the directory; which were made, innermost first, and if it is empty.

  ValueError when it cannot be written to.
  """
  try:
    made = store.make(run_dir)
    fresh = not store.children(run_dir)
    if not store.is_remote(run_dir):
      (run_dir / LOCK).touch()
  except OSError as error:
    raise ValueError(
        f'cannot write to {run_dir} ({disk.reason(error)}): choose another '
        '--run_dir') from error
  return made, fresh


def forget(run_dir: store.Where, made: list[store.Where]) -> None:
  """Removes the records of a run that left nothing else, and its folders."""
  if set(store.children(run_dir)) - set(RECORDS):
    return
  for name in RECORDS:
    (run_dir / name).unlink(missing_ok=True)
  with contextlib.suppress(OSError):  # somebody else put something there
    for folder in made:
      folder.rmdir()


def write_once(path: store.Where, config: ml_collections.ConfigDict) -> None:
  """Writes the resolved config; ValueError when another one is there."""
  text = door.to_json(config)
  if not multihost.leads():
    return
  if path.exists() and path.read_text() != text:
    raise ValueError(
        f'{path} is of another config{differing(path, text)}: take a new run '
        'directory, or the config that this one was begun with')
  if not path.exists():  # a full disk may not leave half of it
    store.replace(path, text.encode())


def differing(path: store.Where, text: str) -> str:
  """The first key in which the config in a file is another one."""
  try:
    then, now = (flat(json.loads(x)) for x in (path.read_text(), text))
  except ValueError:
    return ' (or damaged)'
  key = next((k for k in sorted(then | now) if then.get(k) != now.get(k)), '')
  return (f', {key} having been {then.get(key, "absent")!r}, now '
          f'{now.get(key, "absent")!r}') if key else ''


def flat(value: Any, joint: str = '.', path: str = '') -> dict[str, Any]:
  """{'a': {'b': 1}} -> {'a.b': 1}."""
  if not isinstance(value, dict):
    return {path: value}
  return {k: v for key, x in value.items() for k, v in flat(
      x, joint, f'{path}{joint}{key}'.removeprefix(joint)).items()}


def explain(run_dir: store.Where, command: str) -> None:
  """Writes command.txt, git.txt and machine.txt; a later command is added.

  git.txt and machine.txt grow only when what they say has changed since.
  """
  if not multihost.leads():
    return
  path = run_dir / COMMAND
  if path.exists():
    now = datetime.datetime.now().astimezone().isoformat(timespec='seconds')
    command = f'{path.read_text()}# again, {now}:\n{command}'
  # a word of the command line may be no text
  store.replace(path, f'{command}\n'.encode(errors='backslashreplace'))
  for name, state in ((GIT, git_state()), (MACHINE, machine())):
    path = run_dir / name
    before = path.read_text() if path.exists() else ''
    if not path.exists():
      store.replace(path, state.encode())
    elif not before.endswith(state):
      store.replace(path, f'{before}\n# gone on with:\n{state}'.encode())


def machine() -> str:
  """Versions, devices, and the kernel that trainer and sampler share."""
  versions = ', '.join(
      f'{module.__name__} {module.__version__}'
      for module in (rlft, jax, flax, optax, orbax.checkpoint))
  kinds = sorted({device.device_kind for device in jax.devices()})
  return (f'{versions}\n{jax.device_count()} {jax.default_backend()} devices '
          f'({", ".join(kinds)}), {jax.process_count()} processes\n'
          f'attention: {attention.kernel()}\n')


def git_state(code: Path = Path(__file__).parent) -> str:
  """Commit and changes of the code, new files included; '' without git.

  '' too where the code lies in a repository that does not track it, such as
  the one of whoever installed it.
  """
  def git(*words: str) -> str:
    try:
      done = subprocess.run(
          ['git', *words], capture_output=True, text=True, check=False,
          errors='replace', cwd=code)
    except OSError:  # there is no git
      return ''
    # --no-index says by 1 that there is a difference
    return done.stdout if done.returncode in (0, 1) else ''

  top = git('rev-parse', '--show-toplevel').rstrip('\n')
  if not top or not git('ls-files', '--', '.'):
    return ''
  new = git('-C', top, 'ls-files', '-z', '--others', '--exclude-standard',
            '--', *(f'{folder}/' for folder in CODE)).split('\0')
  said = [git('rev-parse', 'HEAD'), git('-C', top, 'diff', 'HEAD')]
  for name in filter(None, new):
    path = Path(top) / name
    content = path.read_bytes() if path.is_file() else b''  # a dead link
    said += [f'new file {name}, sha256 {hashlib.sha256(content).hexdigest()}\n',
             git('-C', top, 'diff', '--no-index', '--', os.devnull, name)]
  return ''.join(said)
