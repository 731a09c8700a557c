"""The one indirection: a name in a config is a file in a flat folder."""
import contextlib
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from rlft.types import Scalar

# Annotations that leave no room for None.
SCALARS = (bool, float, int, str, Scalar)


def names(folder: str) -> list[str]:
  """The parts that `rlft/<folder>/` offers, sorted."""
  package = importlib.import_module(f'rlft.{folder}')
  return sorted(m.name for m in pkgutil.iter_modules(package.__path__))


def load(folder: str, name: str) -> ModuleType:
  """The module `rlft.<folder>.<name>`; ValueError lists the known parts."""
  known = names(folder)
  if name not in known:
    raise ValueError(f'no {name!r} in rlft/{folder}; known: {", ".join(known)}')
  return importlib.import_module(f'rlft.{folder}.{name}')


def at(module: str, path: str) -> Any:
  """What a module of any package has under this name, with dots or without."""
  return functools.reduce(
      getattr, path.split('.'), importlib.import_module(module))


def fill(function: Callable, where: str, **kwargs: Any) -> Callable:
  """`function` with its keywords filled in; `where` names it to a reader.

  ValueError lists the known keywords when one is not taken, and names one that
  may not be None.
  """
  known = {
      p.name: p.annotation
      for p in inspect.signature(function).parameters.values()
      if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
  }
  unknown = sorted(set(kwargs) - set(known))
  if unknown:
    raise ValueError(
        f'{where} takes no {", ".join(unknown)}; known: {", ".join(known)}')
  empty = [k for k, v in kwargs.items() if v is None and known[k] in SCALARS]
  if empty:
    raise ValueError(f'{where}: {empty[0]} is None: give a value')
  return functools.partial(function, **kwargs)


@contextlib.contextmanager
def named(where: str) -> Iterator[None]:
  """Puts the section of the config before what is wrong with it."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f'{where}: {error}') from error


def bind(folder: str, function: str, name: str, **kwargs: Any) -> Callable:
  """`function` of the part with its keywords filled in.

  Raises ValueError for an unknown part, a function that the part does not
  offer, or a keyword that the function does not take.
  """
  module = load(folder, name)
  if not hasattr(module, function):
    raise ValueError(f'rlft/{folder}/{name}.py has no {function}()')
  where = f'{function}() of rlft/{folder}/{name}.py'
  return fill(getattr(module, function), where, **kwargs)
