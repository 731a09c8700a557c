"""The accelerators that runs are launched on: one table, read by all launchers.

A TPU slice is called as `rlft plan --topology` calls it, v5e:16x16; GPUs are
KIND:NODESxGPUS. `python3 launch/accelerators.py` prints the table.

Slices of 2x4 are left out: they are one host of eight chips as a TPU VM and, by
xpk, two hosts of four on GKE.
"""
from typing import NamedTuple

# Collectives that run beside the arithmetic. A flag that libtpu does not know
# ends the process; on CPUs nothing reads them.
OVERLAP = (
    '--xla_enable_async_all_gather=true',
    '--xla_tpu_enable_async_collective_fusion=true',
    '--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true',
    '--xla_tpu_enable_async_collective_fusion_multiple_steps=true',
    '--xla_tpu_overlap_compute_collective_tc=true',
)
# Gradients that are summed over `data` while the next ones are made.
DATA_PARALLEL = (
    '--xla_tpu_enable_data_parallel_all_reduce_opt=true',
    '--xla_tpu_data_parallel_opt_different_sized_ops=true',
)
GPU = (
    '--xla_gpu_enable_latency_hiding_scheduler=true',
    # few large collectives rather than many small ones
    '--xla_gpu_all_gather_combine_threshold_bytes=134217728',
    '--xla_gpu_all_reduce_combine_threshold_bytes=134217728',
    '--xla_gpu_reduce_scatter_combine_threshold_bytes=134217728',
    # NCCL waits for a process that is gone for ever unless told otherwise
    '--xla_gpu_nccl_termination_timeout_seconds=600',
)


class Family(NamedTuple):
  """What all sizes of a kind share."""
  kind: str  # 'tpu' or 'gpu'
  environment: dict[str, str]
  gke_label: str = ''  # cloud.google.com/gke-tpu-accelerator
  runtime: str = ''  # image of a TPU VM


class Accelerator(NamedTuple):
  """One size of one kind."""
  name: str
  chips: int
  hosts: int
  chips_per_host: int
  topology: tuple[int, ...]
  gcloud: str = ''  # --accelerator-type, and xpk's --tpu-type

  @property
  def family(self) -> Family:
    """What it shares with the other sizes."""
    return FAMILIES[self.name.partition(':')[0]]

  @property
  def shape(self) -> str:
    """The topology as Google writes it, 4x4x8."""
    return 'x'.join(map(str, self.topology))

  @property
  def processes(self) -> int:
    """Of a run: one for each TPU host, one for each GPU."""
    return self.hosts if self.family.kind == 'tpu' else self.chips

  @property
  def environment(self) -> dict[str, str]:
    """The variables of each process."""
    several = {'RLFT_COORDINATOR': 'auto'} if self.processes > 1 else {}
    return {**several, **self.family.environment}


def _tpu(flags: tuple[str, ...], gke_label: str, runtime: str) -> Family:
  return Family(
      'tpu', {'LIBTPU_INIT_ARGS': ' '.join(flags)}, gke_label, runtime)


_CUDA = Family('gpu', {'XLA_FLAGS': ' '.join(GPU), 'NCCL_DEBUG': 'WARN'})
FAMILIES = {
    'v4': _tpu(OVERLAP, 'tpu-v4-podslice', 'tpu-ubuntu2204-base'),
    'v5e': _tpu(OVERLAP + DATA_PARALLEL, 'tpu-v5-lite-podslice',
                'v2-alpha-tpuv5-lite'),
    'v5p': _tpu(OVERLAP + DATA_PARALLEL, 'tpu-v5p-slice', 'v2-alpha-tpuv5'),
    'v6e': _tpu(OVERLAP + DATA_PARALLEL, 'tpu-v6e-slice', 'v2-alpha-tpuv6e'),
    'a100': _CUDA, 'h100': _CUDA, 'h200': _CUDA,
}
# v4 and v5p are counted in TensorCores by gcloud, two to a chip.
TABLE = {row.name: row for row in (
    Accelerator('v4:2x2x1', 4, 1, 4, (2, 2, 1), 'v4-8'),
    Accelerator('v4:2x2x2', 8, 2, 4, (2, 2, 2), 'v4-16'),
    Accelerator('v4:2x2x4', 16, 4, 4, (2, 2, 4), 'v4-32'),
    Accelerator('v4:4x4x4', 64, 16, 4, (4, 4, 4), 'v4-128'),
    Accelerator('v5e:2x2', 4, 1, 4, (2, 2), 'v5litepod-4'),
    Accelerator('v5e:4x4', 16, 4, 4, (4, 4), 'v5litepod-16'),
    Accelerator('v5e:4x8', 32, 8, 4, (4, 8), 'v5litepod-32'),
    Accelerator('v5e:8x8', 64, 16, 4, (8, 8), 'v5litepod-64'),
    Accelerator('v5e:8x16', 128, 32, 4, (8, 16), 'v5litepod-128'),
    Accelerator('v5e:16x16', 256, 64, 4, (16, 16), 'v5litepod-256'),
    Accelerator('v5p:2x2x1', 4, 1, 4, (2, 2, 1), 'v5p-8'),
    Accelerator('v5p:2x2x2', 8, 2, 4, (2, 2, 2), 'v5p-16'),
    Accelerator('v5p:2x2x4', 16, 4, 4, (2, 2, 4), 'v5p-32'),
    Accelerator('v5p:2x4x4', 32, 8, 4, (2, 4, 4), 'v5p-64'),
    Accelerator('v5p:4x4x4', 64, 16, 4, (4, 4, 4), 'v5p-128'),
    Accelerator('v5p:4x4x8', 128, 32, 4, (4, 4, 8), 'v5p-256'),
    Accelerator('v5p:4x8x8', 256, 64, 4, (4, 8, 8), 'v5p-512'),
    Accelerator('v5p:8x8x8', 512, 128, 4, (8, 8, 8), 'v5p-1024'),
    Accelerator('v6e:2x2', 4, 1, 4, (2, 2), 'v6e-4'),
    Accelerator('v6e:4x4', 16, 4, 4, (4, 4), 'v6e-16'),
    Accelerator('v6e:4x8', 32, 8, 4, (4, 8), 'v6e-32'),
    Accelerator('v6e:8x8', 64, 16, 4, (8, 8), 'v6e-64'),
    Accelerator('v6e:8x16', 128, 32, 4, (8, 16), 'v6e-128'),
    Accelerator('v6e:16x16', 256, 64, 4, (16, 16), 'v6e-256'),
    *(Accelerator(f'{kind}:{hosts}x{gpus}', hosts * gpus, hosts, gpus,
                  (hosts, gpus))
      for kind in ('a100', 'h100', 'h200')
      for hosts, gpus in (
          (1, 1), (1, 4), (1, 8), (2, 8), (4, 8), (8, 8), (16, 8))),
)}


def find(name: str, kind: str) -> Accelerator:
  """The row of the table; ValueError lists the names there are."""
  known = [row.name for row in TABLE.values() if row.family.kind == kind]
  if name not in known:
    raise ValueError(f'no accelerator {name!r} here; known: {" ".join(known)}')
  return TABLE[name]


def told() -> str:
  """The table to be read."""
  lines = [('name', 'chips', 'hosts', 'per host', 'gcloud, xpk', 'runtime')]
  lines += [(row.name, row.chips, row.hosts, row.chips_per_host, row.gcloud,
             row.family.runtime) for row in TABLE.values()]
  return '\n'.join(
      '{:12}{:>6}{:>6}{:>9}  {:15}{}'.format(*line).rstrip() for line in lines)


if __name__ == '__main__':
  print(told())
