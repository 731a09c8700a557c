"""Decoding: rules that bend next-token logits before a token is drawn.

One file each with `rule(logits, /, *, settings) -> logits`. The caller has
divided by the temperature; a token that the rule excludes gets -inf.
"""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rlft import parts


def bind(name: str = '', **settings: Any) -> Callable:
  """A rule by name with its settings, tried on one row.

  Raises ValueError for an unknown rule, a setting that it does not take, or a
  value that it refuses: at once, not when a token is first drawn.
  """
  rule = parts.bind('decoding', 'rule', name, **settings)
  jax.eval_shape(rule, jax.ShapeDtypeStruct((1, 2), jnp.float32))
  return rule


def read(config: Any, where: str) -> tuple:
  """The section `decoding` of a config called `where`; empty: no rule.

  As (key, value) pairs, its rule tried. ValueError names the section.
  """
  section, where = config.get('decoding', {}), f'{where}.decoding'
  if not hasattr(section, 'items'):
    raise ValueError(
        f"{where} is {section!r}: write dict(name='truncated', top_k=20)")
  settings = dict(section.items())
  if settings:
    with parts.named(where):
      bind(**settings)
  return tuple(settings.items())
