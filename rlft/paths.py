"""Names and texts from outside: which may be a path, and how one is told."""
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

NAME = re.compile('[A-Za-z0-9][A-Za-z0-9._=-]{0,127}')
REMOTE = re.compile('([A-Za-z][A-Za-z0-9+.-]+):/')  # Path drops one of gs://
LONGEST = 200  # bytes of a folder's name; files beside it add to it
DEPTH = 3  # study / seed / stage / checkpoints, whose entries are steps
ODD = ('Cc', 'Cf', 'Cs', 'Zl', 'Zp')  # control, invisible, no character, lines


def shown(text: object) -> str:
  """A text as part of a message: on one line, without codes, not too long."""
  text = str(text)
  text = text if len(text) <= 200 else f'{text[:200]}...'
  return ascii(text) if is_odd(text) else text


def is_odd(text: str) -> bool:
  """Whether it has what a terminal would not print, or would obey."""
  return not text.isprintable() and any(
      unicodedata.category(c) in ODD for c in text)


def is_name(text: object) -> bool:
  """Whether it may become a folder or file below another."""
  return (isinstance(text, str) and NAME.fullmatch(text) is not None
          and '..' not in text)


def is_below(text: object) -> bool:
  """Whether it is one such name, or several with a / between them."""
  return isinstance(text, str) and all(map(is_name, text.split('/')))


def below(text: object, what: str) -> str:
  """The text, if it may become a folder below another; else ValueError."""
  if not is_below(text):
    raise ValueError(
        f'{what} {ascii(text)[:80]} would be a folder, and is no name for one: '
        'take up to 128 of A-Z, a-z, 0-9, . _ = -, of which a letter or a '
        'digit is the first, and no two dots in a row')
  return text


def chosen(text: str | os.PathLike, flag: str) -> Path:
  """A directory of the user's own choice; ValueError where it can be none."""
  spelled = os.fspath(text)
  remote = REMOTE.match(spelled)
  if remote:
    raise ValueError(
        f'{flag}: directories on {remote[1]}:// cannot be written to: give one '
        'of this machine, such as a folder that the bucket is mounted at')
  last = os.path.basename(os.path.abspath(spelled))
  if not _encodes(spelled) or last.startswith('-') or is_odd(last):
    raise ValueError(
        f'{flag}={ascii(spelled)[:120]} ends in no name for a directory: take '
        'one that does not begin with - and has no control characters')
  if len(os.fsencode(last)) > LONGEST:
    raise ValueError(f'{flag}: {ascii(last)[:40]}... is too long: take a name '
                     f'of up to {LONGEST} bytes')
  return Path(text)


def of_model(name: str) -> str:
  """The folder of hf:FOLDER; ValueError for one that is not of this machine."""
  folder = name.removeprefix('hf:')
  if not name.startswith('asset:') and REMOTE.match(folder):
    raise ValueError(
        f'{shown(name)}: the files of a model are read on this machine: copy '
        'them here, or name a folder that the bucket is mounted at')
  return folder


def _encodes(text: str) -> bool:
  """Whether the system takes it as a path, of whatever length."""
  try:
    return b'\0' not in os.fsencode(text)
  except UnicodeEncodeError:
    return False


def enclosed(folder: Path) -> None:
  """ValueError for a link in a run or study that leads out of it.

  What a run appends to, renames and deletes is then its own.
  """
  root = Path(os.path.realpath(folder))
  for link in _links(folder, DEPTH):
    if not Path(os.path.realpath(link)).is_relative_to(root):
      raise ValueError(
          f'{shown(link)} is a link that leads out of {shown(folder)}: put '
          'what it names in its place, or choose another directory')


def _links(folder: Path, depth: int) -> Iterator[Path]:
  try:
    found = list(os.scandir(folder))
  except OSError:  # it is not there, or not any more
    return
  for entry in found:
    if entry.is_symlink():
      yield Path(entry.path)
    elif depth and entry.is_dir():
      yield from _links(Path(entry.path), depth - 1)
