"""Kernels over eight devices: the same numbers, one all-to-all, no gather."""
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlft.spectral import rotation, sharded, svd

P = PartitionSpec
SHAPES = {
    'query': (3, 8, 8), 'out': (5, 8, 8), 'up': (4, 8, 12), 'head': (8, 20),
    'experts': (3, 2, 8, 12)}
MESHES = {
    'cube': ((2, 2, 2), ('data', 'fsdp', 'tensor')),
    'line': ((8,), ('x',)), 'plane': ((2, 4), ('tensor', 'b'))}
LAYOUTS = [
    ('cube', dict(
        query=P(None, ('fsdp', 'tensor')), out=P(None, 'tensor', 'fsdp'),
        up=P(('tensor', 'data'), 'fsdp'), head=P(),
        experts=P(None, 'tensor', 'fsdp'))),
    ('plane', dict(
        query=P(None, None, 'b'), out=P(None, 'b', 'tensor'),
        up=P('b', 'tensor'), head=P('b', 'tensor'),
        experts=P(None, 'tensor', None, 'b')))]


def mesh_of(name):
  shape, names = MESHES[name]
  return Mesh(np.array(jax.devices()).reshape(shape), names)


def stacks(*paths, seed=0):
  rng = np.random.default_rng(seed)
  return {path: rng.normal(size=SHAPES[path]).astype(np.float32)
          for path in paths or SHAPES}


def laid(arrays, mesh, specs):
  return {path: jax.device_put(x, NamedSharding(mesh, specs[path]))
          for path, x in arrays.items()}


def itself(w):
  return w


def length(w):
  return {'norm': jnp.linalg.norm(w), 'inverse': 1 / jnp.linalg.norm(w)}


@pytest.fixture
def programs(monkeypatch):
  """(bucket, lowered, compiled, result) of what runs, bucket by bucket."""
  seen, program = [], sharded._bucket

  def watch(*given, **static):
    lowered = program.lower(*given, **static)
    compiled = lowered.compile()
    seen.append((static['bucket'], lowered, compiled, compiled(*given)))
    return seen[-1][-1]

  monkeypatch.setattr(sharded, '_bucket', watch)
  return seen


def collectives(text):
  return re.findall(
      r'\b(all-gather|all-to-all|all-reduce|reduce-scatter|'
      r'collective-permute|collective-broadcast)(?:-start)?\(', text)


def moved(programs):
  """How many buckets are moved; each by one all-to-all, none is gathered."""
  count = 0
  for bucket, _, compiled, _ in programs:
    cut = any(axes for stack in bucket.stacks for axes in stack.axes)
    assert collectives(compiled.as_text()) == ['all-to-all'] * cut
    count += cut
  return count


@pytest.mark.parametrize('name, specs, cut', [
    (*LAYOUTS[0], 4), (*LAYOUTS[1], 5)], ids=['cube', 'plane'])
def test_every_matrix_comes_back_as_it_went(programs, name, specs, cut):
  mesh, host = mesh_of(name), stacks()
  found = sharded.stacks(itself, laid(host, mesh, specs), mesh=mesh)
  assert list(found) == list(host)
  for path, x in host.items():
    np.testing.assert_array_equal(found[path], x)
    assert found[path].sharding.mesh.size == 8
  assert moved(programs) == cut


def test_matrices_on_the_host_are_spread_out():
  host = stacks('out', 'up')
  for path, row in sharded.tables(
      length, host, mesh=mesh_of('cube')).items():
    assert row['norm'].shape == SHAPES[path][:-2]
    np.testing.assert_allclose(
        row['norm'], np.linalg.norm(host[path], axis=(-2, -1)), rtol=1e-6)


def test_a_kernel_of_two_stacks_does_not_communicate(programs):
  """Both are moved at once, and LAPACK is given one matrix at a time."""
  mesh, specs = mesh_of('cube'), LAYOUTS[0][1]
  pair = [laid(stacks('query', 'up', seed=s), mesh, specs) for s in (0, 1)]
  found = sharded.tables(rotation.procrustes, *pair, mesh=mesh)
  inside = np.float64(pair[0]['query']).swapaxes(1, 2) @ pair[1]['query']
  u, _, vt = np.linalg.svd(inside)
  np.testing.assert_allclose(found['query'], u @ vt, atol=1e-4)
  assert moved(programs) == 2
  for _, _, compiled, _ in programs:
    calls = re.findall(
        r'.*custom_call_target="lapack.*', compiled.as_text())
    assert calls and not [x for x in calls if re.search(r'\[\d+,\d+,\d', x)]


def test_what_a_plain_jit_gathers_would_be_seen():
  """The same matrices left to XLA: the detector is no blind one."""
  mesh = mesh_of('line')
  w = jax.device_put(stacks('up')['up'], NamedSharding(mesh, P(None, 'x')))
  assert 'all-gather' in collectives(
      jax.jit(svd.decompose).lower(w).compile().as_text())


def test_padding_is_neither_worked_on_nor_read(programs):
  """9 matrices on 8 devices: 9 calls, and zeros where nothing is."""
  seen = []

  def counted(w):
    jax.debug.callback(lambda x: seen.append(float(x)), jnp.linalg.norm(w))
    return length(w)

  host = stacks('out', 'up')
  sharded.tables(counted, host, mesh=mesh_of('cube'))
  jax.effects_barrier()
  norms = sorted(float(x) for w in host.values() for x in
                 np.linalg.norm(w, axis=(-2, -1)).reshape(-1))
  np.testing.assert_allclose(sorted(seen), norms, rtol=1e-6)
  # Four devices have one of the costlier four; the fifth of the others makes
  # room for two everywhere.
  for (bucket, _, _, packed), places in zip(programs, (8, 16), strict=True):
    assert packed['norm'].shape == (places,)
    assert (np.asarray(packed['norm']) > 0).sum() == len(bucket.devices)
    assert np.isfinite(packed['inverse']).all()


def test_a_matrix_that_is_not_finite_spoils_no_other():
  host = stacks('out', 'up')
  host['up'][1, 0, 0] = np.nan
  found = sharded.tables(svd.decompose, host, mesh=mesh_of('cube'))
  for path, factors in found.items():
    bad = np.isnan(factors.s).any(-1)
    want = np.arange(4) == 1 if path == 'up' else np.zeros_like(bad)
    np.testing.assert_array_equal(bad, want)


def test_rows_go_with_their_matrices():
  host = stacks('query', 'out', 'head')
  rows = {path: {'scale': np.arange(x[..., 0, 0].size, dtype=np.float32)
                 .reshape(x.shape[:-2])} for path, x in host.items()}
  found = sharded.tables(
      scaled, host, mesh=mesh_of('plane'), rows=rows, power=2)
  for path, x in host.items():
    np.testing.assert_allclose(
        found[path], x[..., 0, 0] * rows[path]['scale']**2, rtol=1e-6)


def scaled(w, row, *, power):
  return w[0, 0] * row['scale']**power


def test_inside_jit_the_layout_is_said():
  mesh, specs = mesh_of('cube'), LAYOUTS[0][1]
  given = laid(stacks('out', 'up'), mesh, specs)
  work = lambda x, specs=None: sharded.stacks(
      svd.decompose, x, mesh=mesh, specs=specs)
  found = jax.jit(lambda x: work(x, specs))(given)
  for path, x in stacks('out', 'up').items():
    np.testing.assert_allclose(
        svd.compose(svd.SVD(*map(np.asarray, found[path]))), x, atol=1e-5)
  with pytest.raises(ValueError, match='does not say inside jit how it is sh'):
    jax.jit(work)(given)


def test_arguments_of_other_shapes_are_refused():
  one, two = stacks('up'), stacks('up')
  two['up'] = two['up'][:, 1:]
  with pytest.raises(ValueError, match=r'up: \(4, 8, 12\) and \(4, 7, 12\)'):
    sharded.tables(rotation.procrustes, one, two, mesh=mesh_of('line'))


def test_half_precision_travels_as_it_is(programs):
  mesh = mesh_of('line')
  half = {k: jnp.asarray(x, jnp.bfloat16) for k, x in stacks('up').items()}
  sharded.tables(length, laid(half, mesh, {'up': P(None, 'x')}), mesh=mesh)
  (_, lowered, _, _), = programs
  kinds = re.findall(
      r'stablehlo.all_to_all.*-> tensor<[\dx]*x(\w+)>', lowered.as_text())
  assert kinds == ['bf16']


def test_the_mesh_is_found_on_the_arrays():
  mesh = mesh_of('cube')
  assert sharded.mesh_of(stacks()) is None
  assert sharded.mesh_of({'a': jnp.ones(3)}) is None
  laid_out = laid(stacks(), mesh, LAYOUTS[0][1])
  assert sharded.mesh_of({'a': 1., 'b': laid_out}) == mesh
  alone = Mesh(np.array(jax.devices()[:1]), ('x',))
  assert sharded.mesh_of(jax.device_put(
      jnp.ones(3), NamedSharding(alone, P()))) is None


def test_an_explicit_mesh_will_do():
  mesh = jax.make_mesh(
      (2, 4), ('a', 'b'), (jax.sharding.AxisType.Explicit,) * 2)
  w = jax.device_put(
      stacks('up')['up'], NamedSharding(mesh, P(None, 'a', 'b')))
  found = sharded.stacks(itself, {'up': w}, mesh=mesh)['up']
  np.testing.assert_array_equal(found, stacks('up')['up'])


BITWISE = '''
import jax
import numpy as np
from jax.sharding import NamedSharding
from rlft.spectral import rotation, sharded, svd
from tests.spectral import test_sharded as t

rng = np.random.default_rng(0)
t.SHAPES.update(out=(3, 160, 160), up=(4, 96, 136))
host = t.stacks()
bases = {k: np.linalg.qr(x if x.shape[-2] >= x.shape[-1] else x.mT)[0]
         for k, x in host.items()}
turned = {k: np.linalg.qr(x + .1 * rng.normal(size=x.shape).astype('f'))[0]
          for k, x in bases.items()}
name, specs = t.LAYOUTS[0]
mesh, some = t.mesh_of(name), lambda x: {k: x[k] for k in ('out', 'up')}
for kernel, arguments in (
    (svd.decompose, (t.laid(host, mesh, specs),)),
    (svd.polar_factor, (some(bases),)),
    (rotation.principal_angles, (some(bases), some(turned)))):
  found = sharded.tables(kernel, *arguments, mesh=mesh)
  for path, ours in found.items():
    theirs = kernel(*(np.asarray(a[path]) for a in arguments))
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs),
                    strict=True):
      assert x.tobytes() == np.asarray(y).tobytes(), (kernel, path)
print('the same to the bit')
'''


@pytest.mark.slow
def test_sharded_is_unsharded_to_the_bit():
  """In a process of its own: how many threads share a sum is settled there."""
  root = Path(__file__).parents[2]
  settled = dict(
      JAX_PLATFORMS='cpu', OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1',
      XLA_FLAGS='--xla_force_host_platform_device_count=8 '
      '--xla_cpu_multi_thread_eigen=false', PYTHONPATH=str(root))
  done = subprocess.run(
      [sys.executable, '-c', BITWISE], env=os.environ | settled, cwd=root,
      capture_output=True, text=True, check=False)
  assert done.stdout == 'the same to the bit\n', done.stderr
