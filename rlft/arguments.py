"""Words of a command line as values; ValueError says what is wrong."""
import math
import os
from pathlib import Path

SWITCHES = ('dry_run',)  # flags that mean true when they have no value


def parse(argv: list[str]) -> tuple[list[str], dict, dict]:
  """Positional words, --flags and --config.key overrides."""
  positional, flags, overrides = [], {}, {}
  for word in argv:
    if not word.startswith('--'):
      positional.append(word)
      continue
    key, equals, value = word[2:].partition('=')
    if not equals and key in SWITCHES:
      value = 'true'
    elif not equals:
      raise ValueError(f'--{key} needs a value: --{key}=...')
    where, name = (overrides, key.removeprefix('config.')) if (
        key.startswith('config.')) else (flags, key)
    if name in where:
      raise ValueError(f'--{key} is given twice')
    where[name] = value
  return positional, flags, overrides


def take(flags: dict, *names: str, need: tuple[str, ...] = ()) -> list:
  """The values of the known flags; ValueError for others or missing ones."""
  unknown = sorted(set(flags) - set(names))
  if unknown:
    raise ValueError(
        f'no flag --{unknown[0]}; known: '
        f'{", ".join("--" + n for n in names) or "none"}')
  for name in need:
    if not flags.get(name):
      raise ValueError(f'--{name}=... is missing')
  return [flags.get(name) for name in names]


def writable(file: Path) -> None:
  """ValueError when a result could not be written there."""
  if not file.parent.is_dir() or file.is_dir():
    raise ValueError(
        f'--out={file}: name a file in a directory that is there')
  if not os.access(file if file.exists() else file.parent, os.W_OK):
    raise ValueError(f'--out={file}: cannot write there; choose another file')


def two(name: str, positional: list[str], overrides: dict) -> list[str]:
  """BEFORE and AFTER; ValueError when there are not two."""
  if len(positional) != 2 or overrides:
    raise ValueError(
        f'{name} takes two checkpoints, BEFORE and AFTER, and no --config.*')
  return positional


def truth(name: str, text: str | None) -> bool:
  """The value of a flag that is true or false; false without it."""
  if text not in (None, 'true', 'false'):
    raise ValueError(f'--{name}={text}: write true or false')
  return text == 'true'


def number(name: str, text: str | None, kind: type, default, *, least=0):
  """The value of a flag; ValueError when it is no such number."""
  try:
    value = kind(default if text is None else text)
  except ValueError:
    value = math.nan
  if not least <= value < math.inf:
    raise ValueError(f'--{name}={text}: give a number from {least}')
  return value
