"""In which fields two configs differ, told in one line."""
from collections.abc import Mapping
from typing import Any

ABSENT = object()


def between(
    one: Mapping, other: Mapping, excused: tuple[str, ...],
) -> list[tuple[str, Any, Any]]:
  """(field, value, other value) of what differs and is not excused."""
  a, b = fields(one), fields(other)
  return [(key, a.get(key, 'not set'), b.get(key, 'not set'))
          for key in sorted({*a, *b})
          if a.get(key, ABSENT) != b.get(key, ABSENT)
          and not is_in(key, excused)]


def refuse(
    found: list[tuple[str, Any, Any]], one: str, other: str, why: str) -> None:
  """ValueError that names the first field, its two values and the others."""
  if not found:
    return
  (field, a, b), *more = found
  also = f' (so do {", ".join(key for key, *_ in more)})' if more else ''
  raise ValueError(f'{one} and {other} differ in {field}, {a!r} and {b!r}'
                   f'{also}, but {why}: make it the same')


def is_in(field: str, sections: tuple[str, ...]) -> bool:
  """Whether a dotted field is one of these, or in one."""
  return any(field == name or field.startswith(f'{name}.')
             for name in sections if name)


def fields(config: Mapping, where: str = '') -> dict[str, Any]:
  """'optimizer.learning_rate' -> value, of all sections."""
  found = {}
  for key, value in config.items():
    found |= (fields(value, f'{where}{key}.') if isinstance(value, Mapping)
              else {f'{where}{key}': value})
  return found
