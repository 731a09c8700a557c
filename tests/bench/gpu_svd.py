"""Decompositions on a GPU: cuSOLVER's three, ours, torch's; a 7B compared.

python -m tests.bench.gpu_svd [--sizes=3584x3584,4096x4096,18944x3584]

Times each algorithm on a matrix with a spiked spectrum (median of three after
one compilation), its error beside LAPACK's, then every matrix of a
Qwen2.5-7B shape (random weights, spiked) factored twice and its leading
angles taken, with the peak memory. torch, where it is installed, is timed on
three matrices per shape, its fastest driver beside its default, and multiplied
by the count. Without a GPU it prints this plan and does nothing.
"""
import statistics
import sys
import time

import jax
import jax.numpy as jnp

from rlft.spectral import rotation, svd

SIZES = ((3584, 3584), (4096, 4096), (18944, 3584))
QWEN_7B = (((3584, 3584), 56), ((3584, 512), 56), ((18944, 3584), 84))
METHODS = ('gesvd', 'gesvdj', 'gesvdp', 'tpu')
DRIVERS = ('gesvd', 'gesvdj', 'gesvda')
TOP = 0.2


def spiked(seed: int, m: int, n: int) -> jax.Array:
  """Gaussian weights with 32 directions well above their edge."""
  keys = jax.random.split(jax.random.key(seed), 3)
  w = .02 * jax.random.normal(keys[0], (m, n))
  left, right = (jax.random.normal(k, (s, 32)) / s**.5
                 for k, s in zip(keys[1:], (m, n), strict=True))
  return w + (left * jnp.linspace(20, 4, 32)) @ right.T


def median(run, repeats: int = 3) -> float:
  """Seconds of `run`, after one call that compiles."""
  jax.block_until_ready(run())
  found = []
  for _ in range(repeats):
    began = time.perf_counter()
    jax.block_until_ready(run())
    found.append(time.perf_counter() - began)
  return statistics.median(found)


def algorithms(m: int, n: int) -> None:
  w = spiked(0, m, n)
  for method in METHODS:
    seconds = median(lambda method=method: svd.decompose(w, method=method))
    found = svd.decompose(w, method=method)
    again = jnp.matmul(
        found.u * found.s[None, :], found.vt, precision='highest')
    error = float(jnp.linalg.norm(again - w) / jnp.linalg.norm(w))
    print(f'{m} x {n}  {method:7s} {seconds:8.3f} s  error {error:.1e}',
          flush=True)
  for driver, seconds in torch_seconds(m, n).items():
    print(f'{m} x {n}  torch {driver:7s} {seconds:8.3f} s', flush=True)


def torch_seconds(m: int, n: int, matrices: int = 3) -> dict[str, float]:
  """Driver -> median seconds of one; {} where torch sees no GPU."""
  try:
    import torch
  except ImportError:
    return {}
  if not torch.cuda.is_available():
    return {}
  found = {}
  for driver in (None, *DRIVERS):
    times = []
    for seed in range(matrices + 1):
      w = torch.utils.dlpack.from_dlpack(spiked(seed, m, n))
      torch.cuda.synchronize()
      began = time.perf_counter()
      torch.linalg.svd(w, full_matrices=False, driver=driver)
      torch.cuda.synchronize()
      times.append(time.perf_counter() - began)
    found[driver or 'default'] = statistics.median(times[1:])
  return found


def whole_model(method: str | None) -> None:
  """Every matrix of a 7B shape against an update of itself."""
  began, torch_time = time.perf_counter(), {}
  for (m, n), count in QWEN_7B:
    for seed in range(count):
      before = spiked(seed, m, n)
      after = before + 1e-4 * jax.random.normal(jax.random.key(seed), (m, n))
      k = svd.count(TOP, min(m, n))
      factors = [svd.decompose(w, k, method) for w in (before, after)]
      jax.block_until_ready(rotation.subspace_angles(*factors))
    for driver, seconds in torch_seconds(m, n).items():
      torch_time[driver] = torch_time.get(driver, 0) + 2 * count * seconds
    print(f'{count} of {m} x {n}: {time.perf_counter() - began:.0f} s so far',
          flush=True)
  used = jax.devices()[0].memory_stats() or {}
  print(f'all 196 matrices compared, {time.perf_counter() - began:.0f} s '
        f'(with torch\'s timing), peak {used.get("peak_bytes_in_use", 0)} B')
  for driver, seconds in torch_time.items():
    print(f'torch {driver}: {seconds:.0f} s, factors alone')


def main(argv: list[str]) -> None:
  if jax.default_backend() != 'gpu':
    print('needs a GPU; on one it would time, and then compare a 7B:')
    for m, n in SIZES:
      print(f'  {m} x {n}: {", ".join(METHODS)}; torch: default, '
            f'{", ".join(DRIVERS)}')
    print('  ' + ', '.join(f'{c} of {m} x {n}' for (m, n), c in QWEN_7B))
    return
  sizes = SIZES
  for word in argv:
    sizes = [tuple(map(int, x.split('x')))
             for x in word.removeprefix('--sizes=').split(',')]
  for m, n in sizes:
    algorithms(m, n)
  whole_model(None)


if __name__ == '__main__':
  main(sys.argv[1:])
