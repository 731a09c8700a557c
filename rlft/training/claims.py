"""Whose a directory in a bucket is, where nothing can be locked.

A lock that is left behind by SIGKILL would keep the run from going on. So the
last who comes has the directory, by a word in a file; who had it before finds
out before it puts anything more, and ends.
"""
import contextlib
import os
import socket
import uuid
from collections.abc import Iterator
from typing import NamedTuple

from etils import epath

from rlft.training import disk


class Ousted(ValueError):
  """Another process has taken over the directory of this one."""


class Claim(NamedTuple):
  """What this process has written, and where."""
  path: epath.Path
  word: str


_claims: list[Claim] = []  # a study's, and within it a stage's


@contextlib.contextmanager
def claimed(path: epath.Path) -> Iterator[None]:
  """Inside, the directory of this file is ours, until another says so, too.

  ValueError where the file cannot be written.
  """
  claim = Claim(path, f'{socket.gethostname()} {os.getpid()} {uuid.uuid4()}')
  from rlft.training import bucket  # it needs what not everybody has
  try:
    bucket.ask(path.parts[2])
    path.write_text(claim.word)
  except OSError as error:
    raise ValueError(
        f'cannot write to {path.parent} ({disk.reason(error)}): choose another '
        '--run_dir') from error
  _claims.append(claim)
  try:
    yield
  finally:
    _claims.remove(claim)


def check() -> None:
  """Ousted where a directory of ours has been taken over."""
  for claim in _claims:
    with disk.writing(claim.path):
      found = claim.path.read_text() if claim.path.exists() else claim.word
    if found != claim.word:
      raise Ousted(
          f'{claim.path.parent} has been taken over by another process '
          f'({" ".join(found.split()[:2])}): this one ends')
