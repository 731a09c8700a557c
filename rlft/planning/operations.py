"""Operations of a program before it is cut over devices, loops multiplied out.

Read from StableHLO, where every product is a `dot_general` and every loop says
how far it counts. XLA's own count takes the body of a loop once.
"""
import math
from typing import Any, NamedTuple

from jax.interpreters import mlir


class Products(NamedTuple):
  """Multiplications and additions of matrix products, each counted as one."""
  total: float
  once: float  # bodies of loops counted once, to be held against XLA's


def products(module: Any) -> Products:
  """Of a lowered program's MLIR module (`lowered.compiler_ir()`)."""
  functions = {
      str(op.attributes['sym_name']).strip('"'): op
      for op in module.body.operations if op.operation.name == 'func.func'}
  counted: dict[str, Products] = {}

  def of_function(name: str) -> Products:
    if name not in counted:
      counted[name] = of_regions(functions[name].operation)
    return counted[name]

  def of_regions(op: Any) -> Products:
    parts = [of(inner.operation) for region in op.regions
             for block in region.blocks for inner in block.operations]
    return Products(sum(p.total for p in parts), sum(p.once for p in parts))

  def of(op: Any) -> Products:
    if op.name == 'stablehlo.dot_general':
      n = _dot(op)
      return Products(n, n)
    if op.name in ('func.call', 'call'):
      return of_function(str(op.attributes['callee']).lstrip('@').strip('"'))
    found = of_regions(op)
    if op.name == 'stablehlo.while':
      return found._replace(total=found.total * trips(op))
    return found

  return of_function('main')


def trips(loop: Any) -> int:
  """How often a loop runs at most: what its condition counts up to.

  Loops of `scan`, `map` and `fori_loop` begin at 0 and add 1; one that ends
  early for other reasons as well is counted as if it did not.
  """
  condition = loop.regions[0].blocks[0]
  found = []
  for inner in condition.operations:
    op = inner.operation
    if op.name == 'stablehlo.compare' and 'LT' in str(
        op.attributes['comparison_direction']):
      bound = _constant(op.operands[1])
      if bound is not None:
        found.append(bound)
  return max(found, default=1)


def _constant(value: Any) -> int | None:
  owner = value.owner
  op = getattr(owner, 'operation', None)
  if op is None or op.name != 'stablehlo.constant':
    return None
  data = mlir.ir.DenseElementsAttr(op.attributes['value'])
  return int(data.get_splat_value().value) if data.is_splat else None


def _dot(op: Any) -> float:
  """2 x elements of the result x length of what is added up."""
  left = mlir.ir.RankedTensorType(op.operands[0].type).shape
  result = mlir.ir.RankedTensorType(op.results[0].type).shape
  text = str(op.attributes['dot_dimension_numbers'])
  inside = text.split('lhs_contracting_dimensions = [')[1].split(']')[0]
  added = [left[int(i)] for i in inside.split(',') if i.strip()]
  return 2.0 * math.prod(result) * math.prod(added)
