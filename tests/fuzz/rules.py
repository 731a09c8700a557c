"""What a call may answer to a hostile text, and what it may not."""

import linecache
import pathlib

import rlft
from rlft import paths

LIBRARY = str(pathlib.Path(rlft.__file__).parent)


class Wrong(AssertionError):
  """What a call must not do."""


def require(true: bool, said: str) -> None:
  """Wrong, unless true; an `assert` would be silent under -O."""
  if not true:
    raise Wrong(said)


def refusal(error: ValueError) -> None:
  """Raises Wrong for a ValueError that nobody wrote, or of several lines."""
  said, at = str(error), error.__traceback__
  require(not paths.is_odd(said), f'a refusal with codes or lines: {said!r}')
  while at.tb_next:
    at = at.tb_next
  file = at.tb_frame.f_code.co_filename
  line = linecache.getline(file, at.tb_lineno).strip()
  require(file.startswith(LIBRARY) and line.startswith('raise') and bool(said),
          f'a refusal by accident, {file}:{at.tb_lineno}: {said!r}')
