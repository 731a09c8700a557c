"""Sweeps, angles and decompositions: what they cost, beside the published way.

  python -m tests.bench.spectral

The shapes of Qwen2.5-0.5B's blocks (hidden 896, keys and values 128, MLP 4864)
with 2 of the 24 layers, which is all that is scaled: costs are per layer. A
sweep is 20 restorations of leading directions of all seven matrices. The
published way decomposes both checkpoints for every point in torch, and takes
angles as arccos of cosines (code of arXiv 2508.16546); it is timed on 2 of its
20 points, which are alike. One thread each; CPU and wall seconds, medians and
spread (smallest to largest) of 3 runs after one that compiles. What that first
run took is told apart. torch is not needed otherwise: without it, the
published way runs in scipy.
"""
import importlib.util
import os
import statistics
import time

os.environ.update(
    OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1', MKL_NUM_THREADS='1',
    JAX_PLATFORMS='cpu', XLA_FLAGS=os.environ.get('XLA_FLAGS', '') +
    ' --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1')

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from rlft.analyses import restoration
from rlft.spectral import published, rotation, svd

LAYERS, POINTS, RUNS, PUBLISHED_POINTS = 2, 20, 3, 2
SHAPES = {'query': (896, 896), 'key': (896, 128), 'value': (896, 128),
          'out': (896, 896), 'gate': (896, 4864), 'up': (896, 4864),
          'down': (4864, 896)}
SINGLE = .25  # of the directions, where one point is meant
TOPS = [(i + 1) / POINTS for i in range(POINTS)]


def weights(seed: int = 0):
  """Gaussian weights with 32 spikes, and an update of 5 % of their norm."""
  rng = np.random.default_rng(seed)
  trees = []
  for size in (0, .05):
    tree = {}
    rng = np.random.default_rng(seed)
    for module, (m, n) in SHAPES.items():
      w = rng.normal(size=(LAYERS, m, n)) * .02
      w += rng.normal(size=(LAYERS, m, 32)) @ rng.normal(
          size=(LAYERS, 32, n)) * .004
      w += size * .02 * rng.normal(size=w.shape)
      tree[module] = {'kernel': jnp.asarray(w, jnp.float32)}
    trees.append({'layers': tree})
  return trees


def timed(function, runs: int = RUNS, warm: bool = True):
  """(CPU, wall) seconds of each call, and the CPU seconds of the first."""
  first, times = 0., []
  if warm:
    start = time.process_time()
    function()
    first = time.process_time() - start
  for _ in range(runs):
    cpu, wall = time.process_time(), time.monotonic()
    function()
    times.append((time.process_time() - cpu, time.monotonic() - wall))
  return times, first


def told(times) -> str:
  """Median and spread of CPU and wall seconds."""
  return ', '.join(
      f'{name} {statistics.median(column):.3f} s '
      f'({min(column):.3f} to {max(column):.3f})'
      for name, column in zip(('CPU', 'wall'), zip(*times, strict=True),
                              strict=True))


def median(times) -> float:
  return statistics.median(cpu for cpu, _ in times)


def sweep(before, after, tops, polar: bool) -> None:
  """Every edit of a sweep, finished one at a time."""
  entries = [dict(kind='vectors', top=top, polar=polar) for top in tops]
  for edit in restoration.edits(before, after, sweep=entries):
    jax.block_until_ready(edit.params)


def one_point(before, after) -> None:
  """What a point must cost: two decompositions and a composition each."""
  for path in SHAPES:
    old, new = (svd.decompose(x['layers'][path]['kernel'])
                for x in (before, after))
    jax.block_until_ready(svd.compose(old._replace(s=new.s)))


def torch_way():
  """(name, decompose, compose) of the library of the published code."""
  if importlib.util.find_spec('torch') is None:
    print('torch is not installed (pip install torch==2.13.0): the published '
          'way runs in scipy, whose float32 decomposition is the same LAPACK')
    factor = lambda w: scipy.linalg.svd(
        w, full_matrices=False, check_finite=False)
    return 'scipy', np.asarray, factor, np.concatenate
  import torch
  torch.set_num_threads(1)
  factor = lambda w: torch.linalg.svd(w, full_matrices=False)
  return (f'torch {torch.__version__}',
          lambda x: torch.from_numpy(np.array(x)), factor, torch.cat)


def published_sweep(way, before, after, tops) -> None:
  """Both checkpoints decomposed for every point, every layer of each matrix."""
  _, _, factor, join = way
  for top in tops:
    for old, new in zip(before, after, strict=True):
      (p, _, qt), (u, s, vt) = factor(old), factor(new)
      k = round(top * len(s))
      (join([p[:, :k], u[:, k:]], 1) * s) @ join([qt[:k], vt[k:]], 0)


def sweeps() -> None:
  """The 20-point sweep: ours, one point of it, and the published way."""
  before, after = weights()
  way = torch_way()
  pieces = [[way[1](w) for module in SHAPES
             for w in np.asarray(x['layers'][module]['kernel'])]
            for x in (before, after)]
  times, _ = timed(lambda: one_point(before, after))
  one = median(times)
  print(f'one point (2 decompositions, 1 composition a matrix): {told(times)}')
  part, _ = timed(
      lambda: published_sweep(way, *pieces, TOPS[3:3 + PUBLISHED_POINTS]),
      warm=False)
  theirs = median(part) * POINTS / PUBLISHED_POINTS
  print(f'published way, {way[0]}, {PUBLISHED_POINTS} of {POINTS} points: '
        f'{told(part)}; {POINTS} points: CPU {theirs:.1f} s')
  for polar in (False, True):
    single, _ = timed(
        lambda polar=polar: sweep(before, after, [SINGLE], polar))
    times, first = timed(
        lambda polar=polar: sweep(before, after, TOPS, polar))
    ours, point = median(times), median(single)
    kind = f'{"with" if polar else "without"} polar correction'
    print(f'sweep of the one point top={SINGLE}, {kind}: {told(single)}')
    print(f'{POINTS}-point sweep, {kind}: {told(times)}; '
          f'{ours / point:.2f} x a sweep of one point, {ours / one:.2f} x two '
          'decompositions and a composition; the '
          f'published way takes {theirs / ours:.1f} x the CPU time '
          f'({theirs / first:.1f} x the first run with its compilation, '
          f'{first:.1f} s)')


def accuracy() -> None:
  """Angles below 1e-3 rad that are known, ours and the published formula's."""
  rng = np.random.default_rng(0)
  m, k = 896, 179
  basis, _ = np.linalg.qr(rng.normal(size=(m, 2 * k)))
  angles = np.sort(10 ** rng.uniform(-6, -3, k))
  turned = basis[:, :k] * np.cos(angles) + basis[:, k:] * np.sin(angles)
  spin = lambda: np.linalg.qr(rng.normal(size=(k, k)))[0]
  a, b = (jnp.asarray(x @ spin(), jnp.float32)
          for x in (basis[:, :k], turned))
  errors = [np.abs(np.float64(f(a, b)) - angles).max() for f in (
      rotation.principal_angles, published.principal_angles)]
  print(f'{k} angles from 1e-6 to 1e-3 rad in R^{m}: largest error ours '
        f'{errors[0]:.1e}, arccos {errors[1]:.1e} rad: '
        f'{errors[1] / errors[0]:.0f} times')
  for name, function in (('ours', rotation.principal_angles),
                         ('arccos', published.principal_angles)):
    times, _ = timed(lambda f=function: jax.block_until_ready(f(a, b)))
    print(f'  {name}: {told(times)}')


def decompositions() -> None:
  """One decomposition against numpy's and scipy's, float32."""
  for m, n in ((896, 896), (896, 4864)):
    w = np.random.default_rng(0).normal(size=(m, n)).astype(np.float32)
    wide = jnp.asarray(w)
    for name, function in (
        ('ours', lambda w=wide: jax.block_until_ready(svd.decompose(w))),
        ('numpy', lambda w=w: np.linalg.svd(w, full_matrices=False)),
        ('scipy', lambda w=w: scipy.linalg.svd(w, full_matrices=False))):
      times, _ = timed(function)
      print(f'decomposition {m} x {n}, {name}: {told(times)}')


def main() -> None:
  """Prints one line per measurement."""
  print(f'layers: {LAYERS} of 24, shapes as they are')
  decompositions()
  accuracy()
  sweeps()


if __name__ == '__main__':
  main()
