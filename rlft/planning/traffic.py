"""Bytes that a compiled program reads and writes in memory, from its own text.

What every operation is given and gives, fused ones as a whole, those of a loop
as often as it runs. Of what is only cut out of an array, or put into it in
place, no more than the cut counts; what stays beside a TPU's cores (memory
space 1) counts nothing.
"""
import math
import re
from typing import NamedTuple

from rlft.planning import collectives

FREE = {'parameter', 'get-tuple-element', 'tuple', 'bitcast', 'constant',
        'while', 'conditional', 'call', 'after-all', 'iota', 'copy-start',
        'partition-id', 'replica-id'}
LAID = re.compile(r'(\w+)\[([\d,]*)\](\{[^}]*\})?')
DEFINED = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*?)\)')
CUTS = ('dynamic-slice', 'slice', 'gather')


class Operation(NamedTuple):
  """A line of a computation."""
  name: str
  kind: str  # its type, as text
  op: str
  given: list[str]  # names
  root: bool
  line: str


def touched(text: str) -> float:
  """Bytes of one chip in one run."""
  bodies = dict(collectives.computations(text))

  def of(name: str, times: float) -> float:
    sizes, total = {}, 0.0
    for one in operations(bodies.get(name, ())):
      sizes[one.name] = laid(one.kind)
      if one.op in ('while', 'conditional', 'call'):
        inner = times * (collectives.trips(one.line, bodies)
                         if one.op == 'while' else 1)
        total += sum(of(called, inner)
                     for called in collectives.called(one.line))
      if one.op in FREE:
        continue
      read = [sizes.get(x, 0.0) for x in one.given]
      wrote = sizes[one.name]
      if one.op in CUTS:
        read[0] = min(read[0], wrote)
      elif one.op == 'dynamic-update-slice':
        read[0], wrote = 0.0, read[1]
      elif one.op == 'fusion':
        cut, wrote = inside(bodies, one.line, wrote)
        read = [min(x, cut.get(i, x)) for i, x in enumerate(read)]
      total += times * (wrote + sum(read))
    return total

  return of(next(n for n in bodies if n.startswith('ENTRY ')), 1.0)


def operations(lines: list[str]) -> list[Operation]:
  """Those of a computation, in order."""
  found = []
  for line in lines:
    match = DEFINED.match(line)
    if match:
      root, name, kind, op, given = match.groups()
      found.append(Operation(
          name, kind, op, [x.strip().split(' ')[-1].lstrip('%')
                           for x in given.split(',')], bool(root), line))
  return found


def laid(kind: str) -> float:
  """Bytes in a chip's memory of a type."""
  return math.fsum(
      collectives.size(name, dims) for name, dims, layout in LAID.findall(kind)
      if name in collectives.BYTES and 'S(1)' not in layout)


def inside(
    bodies: dict[str, list[str]], line: str, wrote: float,
) -> tuple[dict[int, float], float]:
  """What a fused computation reads of its parameters, and what it writes.

  Only parameters of which it reads a part are listed. A cut may lie in a fusion
  within the fusion.
  """
  body = list(operations(bodies.get(collectives.called(line)[0], ())))
  own = {one.name: one for one in body}
  origin, cut, whole = {}, {}, set()
  for one in body:
    if one.op == 'parameter':
      origin[one.name] = int(one.given[0])
    elif one.op == 'bitcast' and one.given[0] in origin:
      origin[one.name] = origin[one.given[0]]
    else:
      parts = read_in_part(bodies, one)
      for place, name in enumerate(one.given):
        if name not in origin:
          continue
        if place in parts:
          cut[origin[name]] = cut.get(origin[name], 0.0) + parts[place]
        else:
          whole.add(origin[name])
  for one in body:
    if one.root:
      results = [own.get(name) for name in (
          one.given if one.op == 'tuple' else [one.name])]
      news = [new(own, result) for result in results]
      if any(news):  # in place: only what is new is written
        wrote = math.fsum(laid((n or r).kind) for n, r in zip(
            news, results, strict=True) if n or r)
  return {i: x for i, x in cut.items() if i not in whole}, wrote


def read_in_part(
    bodies: dict[str, list[str]], one: Operation) -> dict[int, float]:
  """Bytes read of those of its arguments that it does not read whole."""
  if one.op in CUTS:
    return {0: laid(one.kind)}
  if one.op == 'dynamic-update-slice':
    return {0: 0.0}
  return inside(bodies, one.line, 0.0)[0] if one.op == 'fusion' else {}


def new(own: dict[str, Operation], one: Operation | None) -> Operation | None:
  """What is put into the array that this operation gives, if that is all."""
  while one is not None and one.op == 'bitcast':
    one = own.get(one.given[0])
  if one is None or one.op != 'dynamic-update-slice':
    return None
  return own.get(one.given[1])
