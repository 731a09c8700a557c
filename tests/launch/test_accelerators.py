"""The table of accelerators, and whether their flags are known."""
import math
import os
import re
import subprocess
import sys

import accelerators
import pytest

ROWS = accelerators.TABLE.values()


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.name)
def test_a_row_agrees_with_itself(row):
  assert row.chips == math.prod(row.topology) == (
      row.hosts * row.chips_per_host)
  family, _, shape = row.name.partition(':')
  assert shape == row.shape and family in accelerators.FAMILIES
  if row.family.kind == 'gpu':
    assert not row.gcloud and row.processes == row.chips
    return
  assert len(row.topology) == (3 if family in ('v4', 'v5p') else 2)
  prefix, _, size = row.gcloud.rpartition('-')
  assert prefix == {'v5e': 'v5litepod'}.get(family, family)
  cores = 2 if family in ('v4', 'v5p') else 1  # gcloud counts TensorCores
  assert int(size) == cores * row.chips and row.processes == row.hosts
  assert row.family.gke_label and row.family.runtime


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.name)
def test_processes_join_where_there_are_several(row):
  assert ('RLFT_COORDINATOR' in row.environment) == (row.processes > 1)


def test_the_table_can_be_read():
  lines = accelerators.told().splitlines()
  assert len(lines) == 1 + len(accelerators.TABLE)
  assert any(line.split() == [
      'v5e:16x16', '256', '64', '4', 'v5litepod-256', 'v2-alpha-tpuv5-lite']
             for line in lines)
  with pytest.raises(ValueError, match=r'no accelerator .*known: a100:1x1'):
    accelerators.find('v5e:4x4', 'gpu')


def starts(program, **variables):
  """A process of its own: XLA reads flags once."""
  return subprocess.run(
      [sys.executable, '-c', program], check=False, capture_output=True,
      text=True, env={**os.environ, **variables}, timeout=120)


CLIENT = 'from jaxlib import xla_client; xla_client.make_cpu_client()'


def test_xla_knows_the_flags_for_gpus():
  """The wheel for CPUs reads them too, and ends when it does not know one."""
  flags = {family.environment['XLA_FLAGS']
           for family in accelerators.FAMILIES.values() if family.kind == 'gpu'}
  known = starts(CLIENT, XLA_FLAGS=' '.join(flags))
  assert known.returncode == 0, known.stderr
  unknown = starts(CLIENT, XLA_FLAGS='--xla_gpu_no_such_flag=true')
  assert unknown.returncode and 'Unknown flag' in unknown.stderr


TOPOLOGY = """
from jax.experimental import topologies
topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x2')
"""


def test_libtpu_knows_the_flags_for_tpus():
  """Only where libtpu is installed; on CPUs nothing else reads them."""
  pytest.importorskip('libtpu', reason='jax[tpu] is not installed')
  flags = {flag for family in accelerators.FAMILIES.values()
           for flag in family.environment.get('LIBTPU_INIT_ARGS', '').split()}
  quiet = {'JAX_PLATFORMS': 'cpu', 'TPU_SKIP_MDS_QUERY': '1'}
  known = starts(TOPOLOGY, LIBTPU_INIT_ARGS=' '.join(flags), **quiet)
  assert known.returncode == 0, known.stderr
  unknown = starts(TOPOLOGY, LIBTPU_INIT_ARGS='--xla_tpu_no_such=1', **quiet)
  assert re.search('Unknown command line flag', unknown.stderr)
