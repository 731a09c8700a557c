"""Values spelled out as JSON and back, for a process that works for another.

None, numbers, texts, lists, tuples, dicts of texts, NamedTuples, and functions
of modules, bare or with arguments filled in (`functools.partial`). Types and
functions go by the names that they are imported by: what is read can call for
an import, and for nothing else.
"""
import functools
import json
from collections.abc import Callable
from typing import Any

from rlft import parts


def write(value: Any) -> bytes:
  """As JSON; ValueError, saying what it is, for anything else."""
  return json.dumps(_tree(value)).encode()


def read(text: bytes) -> Any:
  """What was written."""
  return _value(json.loads(text))


def _tree(value: Any) -> Any:
  if value is None or type(value) in (bool, int, float, str):
    return value
  if type(value) is list:
    return [_tree(x) for x in value]
  if type(value) is dict and all(type(key) is str for key in value):
    return {'dict': {key: _tree(x) for key, x in value.items()}}
  if type(value) is tuple:
    return {'tuple': [_tree(x) for x in value]}
  if isinstance(value, tuple) and hasattr(value, '_fields'):
    return {'of': _name(type(value)), 'fields': [_tree(x) for x in value]}
  if isinstance(value, functools.partial):
    return {'partial': _tree(value.func), 'given': _tree(list(value.args)),
            'keywords': _tree(value.keywords)}
  if callable(value):
    return {'function': _name(value)}
  raise ValueError(f'{value!r:.80} is a {type(value).__name__}, which does not '
                   'go to another process: use plain values and NamedTuples')


def _name(of: Callable) -> list[str]:
  """Module and name of what can be imported by them."""
  name = [getattr(of, '__module__', None), getattr(of, '__qualname__', None)]
  if None in name or '<' in name[1] or not _finds(name, of):
    raise ValueError(f'{of!r:.80} cannot be imported by its name, so that no '
                     'other process finds it: define it in a module')
  return name


def _finds(name: list[str], of: Callable) -> bool:
  """Whether another process would; a method, say, is found without its self.
  """
  try:
    return name[0] != '__main__' and parts.at(*name) is of
  except (ImportError, AttributeError):
    return False


def _value(tree: Any) -> Any:
  if isinstance(tree, list):
    return [_value(x) for x in tree]
  if not isinstance(tree, dict):
    return tree
  if 'dict' in tree:
    return {key: _value(x) for key, x in tree['dict'].items()}
  if 'tuple' in tree:
    return tuple(_value(x) for x in tree['tuple'])
  if 'of' in tree:
    return parts.at(*tree['of'])(*map(_value, tree['fields']))
  if 'partial' in tree:
    return functools.partial(
        _value(tree['partial']), *_value(tree['given']),
        **_value(tree['keywords']))
  return parts.at(*tree['function'])
