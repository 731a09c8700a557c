"""Parameters as they are stored, slice by slice; damage is told in a line."""
import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from jax.sharding import NamedSharding, PartitionSpec

from rlft.checkpoints import directory
from rlft.hf import reading
from rlft.ops import trees
from rlft.training import metrics
from tests.parity import fixtures, ours

PAD = 63


def stored(folder):
  """All tensors of a directory, float32, by the library of the format."""
  found = {}
  for path in folder.glob('model*.safetensors'):
    found |= safetensors.numpy.load_file(path)
  return {k: v.astype(np.float32) for k, v in found.items()}


@pytest.fixture
def copy(tmp_path):
  """A fixture in a place where it may be damaged."""
  return lambda name: shutil.copytree(fixtures.ROOT / name, tmp_path / name)


def rewrite(folder, change):
  """Changes the tensors of a directory with one file."""
  path = folder / 'model.safetensors'
  found = safetensors.numpy.load_file(path)
  change(found)
  safetensors.numpy.save_file(found, path, metadata={'format': 'pt'})


def refused(folder, says):
  with pytest.raises(ValueError) as caught:
    ours.load(folder, PAD)
  message = str(caught.value)
  assert message.startswith(str(folder)) and '\n' not in message
  assert '--select' not in message  # that is for who compares
  assert says in message


@pytest.mark.parametrize('name', [  # float32, bfloat16, float16
    'llama_linear_sharded', 'mllama_first_layer_crosses', 'llama_tied_twin'])
def test_every_number_is_the_stored_one(name):
  folder = fixtures.ROOT / name
  _, params = ours.load(folder, PAD)
  assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(np.float32)}
  found, want = ours.by_tensor(params, folder), stored(folder)
  for tensor, x in found.items():
    np.testing.assert_array_equal(x, want[tensor])


def test_a_step_from_what_was_read_is_compiled_once():
  """What is bound to a device binds what comes out: another program."""
  _, params = ours.load(fixtures.ROOT / 'llama_tied_twin', PAD)
  step = jax.jit(lambda params, count: (params, count + 1))
  heard = metrics.Compilations()
  state = step(params, jnp.zeros((), jnp.int32))
  once = heard.count
  step(*state)
  assert heard.count == once > 0


def test_a_shard_that_is_missing_is_named(copy):
  folder = copy('llama_linear_sharded')
  (folder / 'model-00002-of-00003.safetensors').unlink()
  refused(folder, 'model-00002-of-00003.safetensors is missing')


@pytest.mark.parametrize('file', [
    '../model.safetensors', '/etc/passwd', 'a/model.safetensors', 'model.bin'])
def test_an_index_entry_with_a_path_is_refused(copy, file):
  folder = copy('llama_linear_sharded')
  path = folder / 'model.safetensors.index.json'
  index = json.loads(path.read_text())
  index['weight_map']['lm_head.weight'] = file
  path.write_text(json.dumps(index))
  refused(folder, f'points outside its directory: lm_head.weight is in '
          f'{file!r}')


def test_pickled_weights_are_refused(copy):
  folder = copy('llama3_factor_8')
  (folder / 'model.safetensors').rename(folder / 'pytorch_model.bin')
  refused(folder, 'has pickled weights only (pytorch_model.bin)')


def test_a_tied_head_that_differs_is_refused(copy):
  folder = copy('llama_tied_twin')
  def change(found):
    found['lm_head.weight'][-1, -1] += 1
  rewrite(folder, change)
  refused(folder, 'lm_head.weight differs from model.embed_tokens.weight')


@pytest.mark.parametrize('tensor', [
    'model.embed_tokens.weight', 'model.norm.weight',
    'model.layers.1.mlp.down_proj.weight'])
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_a_tensor_that_is_not_finite_is_named(copy, tensor, value):
  folder = copy('llama3_factor_32_tied')
  def change(found):
    found[tensor].flat[-1] = value
  rewrite(folder, change)
  refused(folder, f'{tensor} holds NaN or infinity')


def test_a_dtype_of_eight_bits_is_named(copy):
  folder = copy('llama3_factor_32_tied')
  name = 'model.layers.0.mlp.up_proj.weight'
  def change(found):
    found[name] = found[name].astype(ml_dtypes.float8_e4m3fn)
  rewrite(folder, change)
  refused(folder, f'{name} has dtype F8_E4M3; known: F32, F16, BF16')


def shardings(like, mesh):
  """Matrices over both axes, vectors over one; layers are not split."""
  def over(path, x):
    stacked = path[0].key == 'layers'
    axes = ('rows', 'columns')[stacked - x.ndim:]
    fitting = (axis if size % mesh.shape[axis] == 0 else None
               for axis, size in zip(axes, x.shape[stacked:], strict=True))
    return NamedSharding(mesh, PartitionSpec(*[None] * stacked, *fitting))
  return jax.tree.map_with_path(over, like)


@pytest.mark.parametrize('name', [
    'llama3_factor_32_tied', 'llama_linear_sharded', 'mllama'])
def test_each_device_reads_its_own_slices(name, monkeypatch):
  """The same numbers, and no more bytes than the devices hold."""
  folder = fixtures.ROOT / name
  _, whole = ours.load(folder, PAD)
  mesh = jax.make_mesh((2, 4), ('rows', 'columns'))
  laid = shardings(whole, mesh)
  cuts, real = [], directory._cut
  monkeypatch.setattr(directory, '_cut', lambda *args: (
      cuts.append((args[3], real(*args))), cuts[-1][1])[1])
  params = reading.params(folder, whole, laid)
  jax.tree.map(np.testing.assert_array_equal, params, whole)
  jax.tree.map(lambda x, sharding: x.sharding.is_equivalent_to(
      sharding, x.ndim) or pytest.fail(f'{x.sharding}'), params, laid)
  _, where = reading.plan(folder, {
      k: x.shape for k, x in trees.named(whole).items()})
  for path, parameter in where.parameters.items():
    shard = trees.named(params)[path].addressable_shards[0].data
    largest = shard.size // (len(parameter.tensors) if parameter.stacked else 1)
    for tensor in parameter.tensors:
      sizes = [found.size for at, found in cuts if at == tensor]
      assert sizes and max(sizes) == largest
