"""Statements of an installed function, run on arrays of our own.

Some of what a peer computes is no function there but a few lines of a long
method. They are found in its installed source by how they begin, and are run
as they stand.
"""
import ast
import inspect
import textwrap
from collections.abc import Callable
from types import CodeType
from typing import Any


def cut(function: Callable, first: str, last: str = '') -> CodeType:
  """The statements of one block from the one that begins with `first` to the
  one that begins with `last`, or only it; ValueError unless there is one."""
  last = last or first
  tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
  found = []
  for node in ast.walk(tree):
    for block in ('body', 'orelse', 'finalbody'):
      lines = getattr(node, block, None)
      if isinstance(lines, list):
        said = [ast.unparse(line) for line in lines]
        starts = [i for i, x in enumerate(said) if x.startswith(first)]
        found += [lines[i:j + 1] for i in starts
                  for j, x in enumerate(said) if j >= i and x.startswith(last)]
  if len(found) != 1:
    raise ValueError(f'{function.__qualname__} has {len(found)} blocks from '
                     f'{first!r} to {last!r}, not one')
  module = ast.Module(found[0], type_ignores=[])
  return compile(module, inspect.getsourcefile(function), 'exec')


def run(code: CodeType, function: Callable, **names: Any) -> dict[str, Any]:
  """All names after the statements, which see the function's module."""
  known = function.__globals__ | names
  exec(code, known)
  return known
