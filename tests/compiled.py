"""Functions compiled whole: op by op, every small program is compiled alone."""
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import jax


def whole(function: Callable[..., Any]) -> Callable[..., Any]:
  """The function as one program for each choice of its keywords."""
  named = [k for k, p in inspect.signature(function).parameters.items()
           if p.kind == p.KEYWORD_ONLY]
  return functools.wraps(function)(
      jax.jit(function, static_argnames=named))


def objective(module: types.ModuleType) -> types.SimpleNamespace:
  """An objective whose `loss` and `advantages` are each one program."""
  return types.SimpleNamespace(**{
      name: whole(getattr(module, name)) for name in ('loss', 'advantages')
      if hasattr(module, name)})
