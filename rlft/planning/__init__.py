"""What a run would take on devices that need not be here: `rlft plan`.

Every program of a run is compiled for a topology, by the compiler that would
compile it there, and read: memory of a chip, operations, what chips send each
other. What a step would take follows from a stated roofline.
"""
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections

from rlft import binding
from rlft.ops import sharding
from rlft.planning import (
    collectives,
    operations,
    programs,
    topologies,
    traffic,
)
from rlft.planning.topologies import Topology

# What share of a chip's numbers a program reaches. Of products on TPUs: the
# model-FLOPs utilisation that large trainings publish, 0.45 to 0.65; the other
# two are assumed.
EFFICIENCY = dict(products=0.55, bandwidth=0.8, network=0.7)
ROOM = 0.1  # of a chip's memory that a plan should leave


def plan(
    config: ml_collections.ConfigDict, topology: str = '',
    wanted: tuple[str, ...] = (),
) -> Iterator[dict[str, Any]]:
  """A row per program of a run or study, as each is compiled.

  ValueError for a topology, mesh or program that there is not, before anything
  is compiled.
  """
  found = topologies.find(topology)
  stages = programs.stages(config)
  names = {name for c in stages.values() for name in programs.known(c)}
  unknown = sorted(set(wanted) - names)
  if unknown:
    raise ValueError(f'--programs={unknown[0]}: this run has '
                     f'{", ".join(sorted(names))}')
  seen: set[tuple] = set()
  for stage, section in stages.items():
    with sharding.choosing(found.devices):
      mesh = binding.build_mesh(section)
    with sharding.compiling_for(found.platform):
      for program in programs.of(section, mesh):
        mark = program.name, str(jax.tree.map(str, program.arguments))
        if mark in seen or (wanted and program.name not in wanted):
          continue
        seen.add(mark)
        told = {'stage': stage, **row(program, mesh, found)}
        if not told['fits']:
          told['advice'] = advice(told, section)
        yield told


def row(program: programs.Program, mesh: Any, at: Topology) -> dict[str, Any]:
  """What one program takes, per chip."""
  chips = 1 if mesh is None else mesh.size
  with sharding.over(mesh):
    lowered = program.run.lower(*program.arguments)
    counted = operations.products(lowered.compiler_ir())
    model = counted.total
    if program.forward is not None:
      loss, arguments = program.forward
      forward = operations.products(loss.lower(*arguments).compiler_ir())
      model = 3 * program.passes * forward.total
    began, busy = time.monotonic(), time.process_time()
    try:
      compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
      return _too_large(program, at, error)
  seconds = time.monotonic() - began
  busy = time.process_time() - busy
  memory = compiled.memory_analysis()
  beside = programs.held(program.beside)
  own = beside + (
      memory.argument_size_in_bytes + memory.output_size_in_bytes
      - memory.alias_size_in_bytes + memory.temp_size_in_bytes
      + memory.generated_code_size_in_bytes)
  limit = at.chip.hbm if at.chip else None
  text = compiled.as_text()
  sent = collectives.sent(text)
  found = {
      'name': program.name, 'chips': chips, 'hbm_bytes': own,
      'beside_bytes': beside,
      'hbm_limit': limit, 'fits': limit is None or own <= limit,
      'flops': counted.total / chips, 'model_flops': model / chips,
      'bytes': traffic.touched(text), 'sent': sent,
      'sent_bytes': sum(x['bytes'] for x in sent.values()),
      'compile_seconds': seconds, 'compile_cpu_seconds': busy}
  return found | roofline(found, at)


def roofline(row: dict[str, Any], at: Topology) -> dict[str, Any]:
  """Seconds that a chip would need: those of the slowest of three.

  Products, memory and network are taken to overlap.
  """
  if at.chip is None:
    return {}
  parts = {
      'products': row['flops'] / (at.chip.products * EFFICIENCY['products']),
      'bandwidth': row['bytes'] / (
          at.chip.bandwidth * EFFICIENCY['bandwidth']),
      'network': row['sent_bytes'] / (
          at.chip.network * EFFICIENCY['network'])}
  slowest = max(parts, key=parts.get)
  return {'seconds': parts[slowest], 'bound_by': slowest,
          'mfu': row['model_flops'] / at.chip.products / parts[slowest]}


def _too_large(program, at: Topology, error: Exception) -> dict[str, Any]:
  """The row of a program that the compiler refuses for its size.

  It says what the temporaries alone would take.
  """
  told = re.search(r'\(([\d.]+)([KMG])\) exceeds', str(error))
  if 'RESOURCE_EXHAUSTED' not in str(error) or not told:
    raise error
  own = float(told[1]) * 1024 ** ' KMG'.index(told[2])
  return {'name': program.name, 'hbm_bytes': own, 'fits': False,
          'hbm_limit': at.chip.hbm if at.chip else None}


def advice(row: dict[str, Any], config: ml_collections.ConfigDict) -> str:
  """What to change where a program does not fit, or fits barely."""
  ways = []
  forward = row['name'] in ('sample', 'score', 'spectral')
  if config.model.get('remat', 'none') == 'none' and not forward:
    ways.append('--config.model.remat=block')
  if config.mesh.fsdp == 1:
    ways.append('--config.mesh.data=1 --config.mesh.fsdp=-1')
  if row['name'] == 'sample':
    ways.append('fewer experience.slots, or more of mesh.tensor')
  else:
    ways.append('fewer rows, or a larger slice')
  return ' or '.join(ways)


GIB = 2**30


def told(row: dict[str, Any]) -> str:
  """One line for a screen."""
  name = f'{row["stage"]}/{row["name"]}'.lstrip('/')
  limit = row['hbm_limit']
  room = f' of {limit / GIB:.0f}' if limit else ''
  head = (f'{name:24s} {row["hbm_bytes"] / GIB:7.2f}{room} GiB  '
          f'{"fits" if row["fits"] else "DOES NOT FIT: try " + row["advice"]}')
  if 'flops' not in row:
    return head
  sent = ', '.join(
      f'{kind} {x["bytes"] / 1e9:.2f}' for kind, x in row['sent'].items())
  line = (f'{head}  {row["flops"] / 1e12:8.2f} TFLOP '
          f'({row["model_flops"] / 1e12:.2f} of the model)  '
          f'{row["bytes"] / 1e9:8.1f} GB memory  '
          f'{row["sent_bytes"] / 1e9:7.2f} GB sent ({sent or "nothing"})  '
          f'compiled in {row["compile_seconds"]:.0f} s')
  if 'seconds' in row:
    line += (f'  {row["seconds"]:.3f} s by {row["bound_by"]}, MFU '
             f'{row["mfu"]:.0%}')
  return line
