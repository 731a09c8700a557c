"""Runs on eight devices, laid out in every way, beside the run on one."""
import functools
import json
import math

import jax
import ml_collections
import pytest

from rlft import analyze, binding, train, weights
from rlft.models import transformer
from rlft.ops import sharding
from tests import tiny

QWEN = dict(  # two layers, 7 query heads over one, as the smallest of them
    width=28, layers=2, heads=7, kv_heads=1, hidden=48, qkv_bias=True,
    tied=True, epsilon=1e-6, head_size=4)
MESHES = [
    dict(data=d, fsdp=f, tensor=8 // (d * f))
    for d in (1, 2, 4, 8) for f in (1, 2, 4, 8) if d * f <= 8]


def config(kind):
  made = tiny.rl_config(2) if kind == 'rl' else tiny.sft_config(2)
  made.evals = {}
  if kind == 'rl':
    made.experience.prompts = 8  # 16 rollouts in two minibatches of 8
  else:
    made.experience.rows = 8
  if kind == 'qwen2':
    made.model = dict(made.model, preset='', shape=QWEN)
  elif kind == 'nano':
    made.model.preset = 'nano'
  return made


@pytest.fixture(scope='session')
def start(tmp_path_factory):
  """start(kind): a checkpoint to begin from; drawing it anew costs a step."""
  @functools.cache
  def made(kind):
    if kind == 'rl':
      return ''  # is drawn on the mesh
    begun, run_dir = config(kind), tmp_path_factory.mktemp('begun')
    begun.num_steps = 0
    train.run(begun, run_dir)
    return f'{run_dir}@0'

  return made


def run(kind, mesh, init):
  """What two updates measured, and the state after them."""
  made = config(kind)
  made.init = init
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sharding, 'devices', jax.devices)
    patch.setattr(transformer, 'SPELLED_OUT', 0)  # a loop, as on accelerators
    with sharding.over(sharding.make(**mesh)):
      job = binding.build(made)
      state, source, rows = job.state, job.source.init(), []
      for step in range(2):
        source, batch, _ = train.draw(job, source, state, {}, step)
        state, seen = job.update(state, batch)
        rows.append(jax.device_get(seen))
  return rows, state


@functools.cache
def alone(kind, init):
  """The same on one device."""
  return run(kind, dict(data=1), init)[0]


def name(mesh):
  return '-'.join(str(n) for n in mesh.values())


@pytest.mark.parametrize('mesh', MESHES, ids=name)
@pytest.mark.parametrize('kind', ['nano', 'qwen2'])
def test_sft_is_that_of_one_device(kind, mesh, start):
  same(kind, mesh, start(kind))


def test_ppo_is_that_of_one_device(start):
  same('rl', dict(data=2, fsdp=2, tensor=2), start('rl'))


def same(kind, mesh, init):
  wanted = alone(kind, init)
  rows, state = run(kind, mesh, init)
  for row, other in zip(rows, wanted, strict=True):
    for key in ('loss', 'grad_norm', 'update_norm'):
      assert row[key] == pytest.approx(other[key], rel=1e-4, abs=1e-5), key
  up = state.params['policy']['layers']['mlp']['up']['kernel']
  assert len(up.sharding.device_set) == 8
  if kind != 'qwen2':  # which does not split evenly
    parts = mesh.get('fsdp', 1) * mesh.get('tensor', 1)
    assert up.size == parts * math.prod(up.sharding.shard_shape(up.shape))


def test_a_run_starts_from_a_checkpoint_that_each_device_reads_a_part_of(
    tmp_path):
  """And analyses of it are those of one device."""
  train.run(config('tiny'), tmp_path / 'before')
  made = config('tiny')
  made.init, made.mesh = f'{tmp_path}/before@2', MESHES[6]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sharding, 'devices', jax.devices)
    train.run(made, tmp_path / 'after')
    names = dict(before=f'{tmp_path}/after@0', after=f'{tmp_path}/after@2')
    for mesh in (dict(data=1), MESHES[6]):
      where = tmp_path / name(mesh)
      where.mkdir()
      analyze.run(ml_collections.ConfigDict(dict(
          analysis=dict(name='rotation', draws=1, select='mlp/up/kernel'),
          checkpoints=names,
          mesh=mesh)), where)
    with sharding.over(sharding.make(**MESHES[6])):
      found = weights.load(names['before'])
  kernel = found['policy']['layers']['mlp']['up']['kernel']
  assert kernel.sharding.shard_shape(kernel.shape) == (2, 32 // 4, 64)
  one, other = (
      json.loads((tmp_path / name(mesh) / 'rotation.json').read_text())
      for mesh in (dict(data=1), MESHES[6]))
  assert one['tensors'] == other['tensors']
  for row, twin in zip(one['rows'], other['rows'], strict=True):
    for key in ('angle_top_rad', 'stable_rank', 'value_shift'):
      assert row[key] == pytest.approx(twin[key], rel=1e-3), key
