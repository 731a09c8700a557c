"""Devices by name: a slice of TPUs, GPUs of this machine, what there is.

A slice of TPUs needs none here: libtpu compiles for it on any machine.
"""
import os
import re
from importlib.util import find_spec
from typing import NamedTuple

import jax

GIB = 2**30


class Chip(NamedTuple):
  """What a kind of device can do; published numbers, per chip.

  Google Cloud's pages of each TPU version (`network`: of all links of a chip,
  one way) and NVIDIA's data sheet.
  """
  hbm: int  # bytes
  products: float  # multiplications and additions in bfloat16 a second
  bandwidth: float  # bytes of memory a second
  network: float  # bytes to other chips a second


CHIPS = {
    'v5e': Chip(16 * GIB, 197e12, 819e9, 200e9),
    'v5p': Chip(95 * GIB, 459e12, 2765e9, 600e9),
    'v6e': Chip(32 * GIB, 918e12, 1640e9, 448e9),
    'v4': Chip(32 * GIB, 275e12, 1228e9, 300e9),
    'h100': Chip(80 * GIB, 989e12, 3350e9, 450e9),
    'h200': Chip(141 * GIB, 989e12, 4800e9, 450e9),
}
SLICES = [kind for kind in CHIPS if kind.startswith('v')]
SLICE = re.compile(r'(v\d[a-z]*):(\d+(?:x\d+)+)')
LOCAL = re.compile(r'(gpu|cpu|tpu):(\d+)')


class Topology(NamedTuple):
  """Devices to compile for, and what is known of one of them."""
  name: str
  platform: str  # 'tpu', 'gpu' or 'cpu'
  devices: list[jax.Device]
  chip: Chip | None  # None where its numbers are not known


def find(name: str) -> Topology:
  """'v5e:16x16', 'gpu:8' or, empty, what this machine has.

  ValueError for a name that is none, and for devices that are not there.
  """
  if SLICE.fullmatch(name):
    return _slice(name)
  local = LOCAL.fullmatch(name)
  if name and not local:
    raise ValueError(
        f'--topology={name!r}: write v5e:16x16 (of {", ".join(SLICES)}), '
        'gpu:8, or leave it out for the devices of this machine')
  kind = local[1] if local else None
  try:
    known = jax.devices(kind)
  except RuntimeError as error:
    raise ValueError(
        f'--topology={name}: this machine has no {kind}; its own programs are '
        'compiled by what drives it, so plan on a machine that has one') from (
            error)
  count = int(local[2]) if local else len(known)
  if not 0 < count <= len(known):
    raise ValueError(f'--topology={name}: this machine has {len(known)}')
  kind = known[0].device_kind.lower()
  chip = next((c for k, c in CHIPS.items() if k in kind.replace(' ', '')), None)
  return Topology(name or f'{known[0].platform}:{count}', known[0].platform,
                  known[:count], chip)


def _slice(name: str) -> Topology:
  kind = SLICE.fullmatch(name)[1]
  if kind not in CHIPS:
    raise ValueError(
        f'--topology={name}: no {kind}; known: {", ".join(SLICES)}')
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')  # this is no cloud machine
  # Two plans at a time: nothing of either runs on a TPU.
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  from jax.experimental import topologies
  try:
    found = topologies.get_topology_desc(platform='tpu', topology_name=name)
  except Exception as error:  # of several kinds, for lack of libtpu too
    todo = ('name a slice that exists: v5e:4x4' if find_spec('libtpu') else
            'install "jax[tpu]", which needs no TPU')
    raise ValueError(
        f'--topology={name} cannot be compiled for '
        f'({str(error).splitlines()[0][:120]}): {todo}') from error
  return Topology(name, 'tpu', list(found.devices), CHIPS[kind])
