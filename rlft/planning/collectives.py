"""What a compiled program sends between chips, from its own text.

The text is the program of one chip. A loop's body counts as often as the loop
runs: XLA writes the number where it knows it, else the bound that the loop's
condition compares with is taken.
"""
import math
import re
from collections import Counter
from collections.abc import Iterator

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all',
         'collective-permute')
BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2,
         's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8}
HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) .*\{$')
ARRAY = re.compile(r'(\w+)\[([\d,]*)\]')
# `= TYPE op(`, where a TYPE may be a tuple of arrays with layouts
OPERATION = re.compile(
    r'= (.*?) (' + '|'.join(KINDS) + r')(-start)?\(')
CALLED = re.compile(
    r'(?:calls|to_apply|body|condition|true_computation|false_computation)='
    r'%?([\w.\-]+)')
CHANNEL = re.compile(r'channel_id=\d+')
BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
BOUND = re.compile(r's32\[\][^=]* constant\((\d+)\)')


def sent(text: str) -> dict[str, dict[str, float]]:
  """Kind -> {'count', 'bytes'} of what one chip sends in one run.

  Bytes on the wire by the algorithm of a ring: (n - 1) / n of the whole array
  for a gather, a scatter or an exchange among n chips, twice that for a sum.
  """
  bodies = dict(computations(text))
  runs: dict[str, tuple[float, str, re.Match, str]] = {}

  def visit(name: str, times: float) -> None:
    for number, line in enumerate(bodies.get(name, ())):
      operation = OPERATION.search(line)
      if operation:
        # One that runs beside products is written down with each of them.
        channel = CHANNEL.search(line)
        own = channel[0] if channel else f'{name} {number}'
        if times > runs.get(own, (0.0,))[0]:
          runs[own] = times, line, operation, name
      inner = times * (trips(line, bodies) if ' while(' in line else 1)
      for name_of in called(line):
        visit(name_of, inner)

  visit(next(n for n in bodies if n.startswith('ENTRY ')), 1.0)
  found: dict[str, Counter] = {}
  for times, line, operation, name in runs.values():
    # TPUs scatter sums in a computation of this name, where it is written as a
    # sum and a cut.
    scattered = operation[2] == 'all-reduce' and 'all-reduce-scatter' in name
    at = found.setdefault(
        'reduce-scatter' if scattered else operation[2], Counter())
    at['count'] += times
    at['bytes'] += times * _bytes_sent(operation, _group(line)) / (
        2 if scattered else 1)
  return {kind: dict(at) for kind, at in sorted(found.items())}


def _bytes_sent(operation: re.Match, n: int) -> float:
  sizes = [size(*array) for array in ARRAY.findall(operation[1])
           if array[0] in BYTES]
  if operation[3] and operation[2] in ('all-gather', 'collective-permute'):
    sizes = [max(sizes)]  # an async start gives its operand as well
  kind, share = operation[2], (n - 1) / n
  if kind == 'reduce-scatter':  # its result is a part
    share *= n
  factor = {'all-reduce': 2 * share, 'collective-permute': 1.0}.get(kind, share)
  return sum(sizes) * factor


def computations(text: str) -> Iterator[tuple[str, list[str]]]:
  """Name and lines of each computation of a program; 'ENTRY ' begins one."""
  name, lines = '', []
  for line in text.splitlines():
    header = HEADER.match(line)
    if header:
      name, lines = (header[1] or '') + header[2], []
    elif line.startswith('}') and name:
      yield name, lines
      name = ''
    elif name:
      lines.append(line)


def called(line: str) -> list[str]:
  """Names of the computations that an operation runs."""
  names = CALLED.findall(line)
  for branches in BRANCHES.findall(line):
    names += [b.strip().lstrip('%') for b in branches.split(',')]
  return names


def size(kind: str, dims: str) -> float:
  """Bytes of an array as its text says it: 'bf16', '8,128'."""
  n = 1.0
  for d in dims.split(','):
    n *= int(d) if d else 1
  return n * BYTES[kind]


def _group(line: str) -> int:
  """Chips that take part in one exchange."""
  iota = re.search(r'replica_groups=\[(\d+),(\d+)\]', line)
  if iota:
    return int(iota[2])
  listed = re.search(r'replica_groups=\{\{([\d,]+)\}', line)
  if listed:
    return len(listed[1].split(','))
  axes = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line)
  if not axes:
    return 2  # pairs, as of a permutation
  sizes = dict(re.findall(r"('\w+')=(\d+)", axes[1]))
  return math.prod(int(sizes[a]) for a in re.findall(r"'\w+'", axes[2]))


def trips(line: str, bodies: dict[str, list[str]]) -> int:
  """How often a `while` runs at most."""
  known = TRIPS.search(line)
  if known:
    return int(known[1])
  condition = bodies[re.search(r'condition=%?([\w.\-]+)', line)[1]]
  fused = [inner for one in condition for name in called(one)
           for inner in bodies.get(name, ())]
  bounds = [int(n) for one in (*condition, *fused) for n in BOUND.findall(one)]
  return max(bounds, default=1)
