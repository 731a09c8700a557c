"""The one indirection: a name in a config is a file in a flat folder."""
import functools
import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any


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


def bind(folder: str, function: str, name: str, **kwargs: Any) -> Any:
  """`function` of the part with its keywords filled in.

  Raises ValueError for an unknown part, a function that the part does not
  offer, or a keyword that the function does not take.
  """
  module = load(folder, name)
  if not hasattr(module, function):
    raise ValueError(f'rlft/{folder}/{name}.py has no {function}()')
  found = getattr(module, function)
  known = [
      p.name for p in inspect.signature(found).parameters.values()
      if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
  ]
  unknown = sorted(set(kwargs) - set(known))
  if unknown:
    raise ValueError(
        f'{function}() of rlft/{folder}/{name}.py takes no '
        f'{", ".join(unknown)}; known: {", ".join(known)}')
  return functools.partial(found, **kwargs)
