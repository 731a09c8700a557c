"""The kernel for TPUs, compiled for real topologies, and what it costs.

python -m tests.bench.tpu_svd [--sizes=1024,4096] [--kinds=v5e,v5p,v6e]
    [--library] [--trips=1024,4096]

Needs `pip install 'jax[tpu]'` (no TPU). For each kind and size: seconds to
compile one matrix per chip, MiB of code, temporaries in matrices; with
`--library` the same of `jnp.linalg.svd`, stopped after ten minutes. Then the
operations, counted from the program with the trips that its loops took on a
random matrix of that size (`--trips`: run here on the CPU, minutes at 4096).
"""
import json
import os
import subprocess
import sys
import time

TOPOLOGIES = {'v5e': 'v5e:4x4', 'v5p': 'v5p:2x2x4', 'v6e': 'v6e:4x4'}
PEAK = {'v5e': 197e12, 'v5p': 459e12, 'v6e': 918e12}  # bfloat16 products / s
BANDWIDTH = {'v5e': 819e9, 'v5p': 2765e9, 'v6e': 1640e9}  # bytes / s
STEP = 2e-6  # seconds that an iteration of a small loop is assumed to take
LIMIT = 600


def compiled(kind: str, size: int, library: bool) -> dict:
  """Compiles one matrix per chip; run in a process of its own."""
  os.environ['TPU_SKIP_MDS_QUERY'] = '1'
  import jax
  jax.config.update('jax_platforms', 'cpu')
  import jax.numpy as jnp
  import numpy as np
  from jax.experimental import topologies
  from jax.sharding import Mesh, NamedSharding
  from jax.sharding import PartitionSpec as P

  from rlft.spectral import svd
  devices = np.array(topologies.get_topology_desc(
      platform='tpu', topology_name=TOPOLOGIES[kind]).devices).reshape(-1)
  mesh = Mesh(devices, ('all',))
  one = (lambda w: jnp.linalg.svd(w, full_matrices=False)) if library else (
      lambda w: svd.decompose(w, method='tpu'))
  program = jax.jit(jax.shard_map(
      one, mesh=mesh, in_specs=P('all'), out_specs=P('all'), check_vma=False))
  shape = jax.ShapeDtypeStruct(
      (len(devices), size, size), jnp.float32,
      sharding=NamedSharding(mesh, P('all')))
  began, spent = time.monotonic(), time.process_time()
  done = program.lower(shape).compile()
  memory = done.memory_analysis()
  return dict(
      seconds=time.monotonic() - began,
      cpu_seconds=time.process_time() - spent,
      code_mib=memory.generated_code_size_in_bytes / 2**20,
      temporaries=memory.temp_size_in_bytes / (4 * size * size))


def trips(size: int) -> list[int]:
  """How often the loops ran on a random matrix, in the program's order."""
  import jax

  from rlft.spectral import jacobi
  w = jax.random.normal(jax.random.key(0), (size, size))
  return [int(x) for x in jax.jit(jacobi.svd)(w).trips]


class Count:
  """Operations of a program, loops multiplied out."""

  def __init__(self):
    self.passes = 0.  # operations on the matrix unit, in bfloat16
    self.elementwise = 0.
    self.bytes = 0.  # operands and results of products
    self.steps = 0.  # iterations of innermost loops

  def walk(self, program, times: float, taken: list[int]) -> bool:
    """`taken`: trips of the loops whose end depends on numbers, in order.

    True if there is a loop in the program.
    """
    from jax.extend import core
    loops = False
    for op in program.eqns:
      name = op.primitive.name
      if name == 'dot_general':
        self.product(op, times)
      elif name in ('scan', 'while'):
        loops = True
        body, length = ('jaxpr', op.params['length']) if name == 'scan' else (
            'body_jaxpr', taken.pop(0))
        if not self.walk(op.params[body].jaxpr, times * length, taken):
          self.steps += times * length
      elif name == 'cond':  # by platform: the last branch is the TPU's
        loops |= self.walk(op.params['branches'][-1].jaxpr, times, taken)
      else:
        below = [p for p in op.params.values()
                 if isinstance(p, core.ClosedJaxpr | core.Jaxpr)]
        for program_below in below:
          loops |= self.walk(
              getattr(program_below, 'jaxpr', program_below), times, taken)
        if not below:
          self.elementwise += times * sum(v.aval.size for v in op.outvars)
    return loops

  def product(self, op, times: float) -> None:
    (contract, _), _ = op.params['dimension_numbers']
    left, right = (v.aval for v in op.invars)
    out = op.outvars[0].aval
    depth = 1
    for axis in contract:
      depth *= left.shape[axis]
    narrow = left.dtype.itemsize == 2
    self.passes += times * 2 * out.size * depth * (1 if narrow else 6)
    self.bytes += times * sum(
        x.size * x.dtype.itemsize for x in (left, right, out))


def counted(size: int, taken: list[int]) -> Count:
  import jax
  import jax.numpy as jnp

  from rlft.spectral import jacobi
  program = jax.make_jaxpr(jacobi.svd)(
      jax.ShapeDtypeStruct((size, size), jnp.float32))
  count = Count()
  count.walk(program.jaxpr, 1, list(taken))
  return count


def report(size: int, taken: list[int], kinds: list[str]) -> None:
  found, cube = counted(size, taken), float(size)**3
  print(f'n={size} trips: coarse {taken[0]}, float32 {taken[1]}, polish '
        f'{taken[2]}; products {found.passes / 6 / cube:.0f} n^3 in float32 '
        f'terms, elementwise {found.elementwise / cube:.1f} n^3')
  for kind in kinds:
    products = found.passes / PEAK[kind]
    memory = found.bytes / BANDWIDTH[kind]
    steps = found.steps * STEP
    print(f'  {kind}: products {products:.2f} s at peak, their operands '
          f'{memory:.2f} s from memory, {found.steps:.0f} steps '
          f'{steps:.2f} s: predicted {max(products, memory) + steps:.2f} s')


def main(argv: list[str]) -> None:
  options = dict(
      word.removeprefix('--').partition('=')[::2] for word in argv)
  sizes = [int(x) for x in options.get('sizes', '1024,2048,4096').split(',')]
  kinds = options.get('kinds', ','.join(TOPOLOGIES)).split(',')
  if 'one' in options:
    kind, size, which = options['one'].split(',')
    print(json.dumps(compiled(kind, int(size), which == 'library')))
    return
  print('kind   n     kernel   compile s  (CPU s)  code MiB  temporaries')
  for kind in kinds:
    for size in sizes:
      for which in ('ours', 'library') if 'library' in options else ('ours',):
        row = f'{kind:5s} {size:5d}  {which:8s}'
        command = [sys.executable, '-m', 'tests.bench.tpu_svd',
                   f'--one={kind},{size},{which}']
        try:
          done = subprocess.run(
              command, capture_output=True, text=True, timeout=LIMIT,
              check=True)
        except subprocess.TimeoutExpired:
          print(f'{row} not within {LIMIT} s', flush=True)
          continue
        found = json.loads(done.stdout.splitlines()[-1])
        print(f'{row} {found["seconds"]:9.0f} {found["cpu_seconds"]:8.0f} '
              f'{found["code_mib"]:9.1f} {found["temporaries"]:12.2f}',
              flush=True)
  for size in [int(x) for x in options.get('trips', '').split(',') if x]:
    report(size, trips(size), kinds)


if __name__ == '__main__':
  main(sys.argv[1:])
