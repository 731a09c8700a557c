"""Directories of safetensors: read by name, and refused when not sound."""
import hashlib
import json
import os

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from rlft import checkpoints
from rlft.checkpoints import tensor
from tests import llama

WEIGHTS = llama.tensors()


@pytest.fixture
def sharded(tmp_path):
  return llama.write(tmp_path / 'm', WEIGHTS, shards=3)


@pytest.mark.parametrize('dtype', [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize('shards', [1, 3])
def test_tensors_come_as_they_were_stored(tmp_path, dtype, shards):
  folder = llama.write(tmp_path / 'm', WEIGHTS, dtype=dtype, shards=shards)
  found = checkpoints.open(str(folder))
  assert set(found.tensors) == set(WEIGHTS)
  for name, array in WEIGHTS.items():
    read = found.read(name)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, array.astype(dtype))
    assert found.tensors[name].shape == array.shape


def test_one_matrix_of_a_stack_is_read_alone(tmp_path):
  stack = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
  folder = llama.write(tmp_path / 'm', {'x.experts.w1': stack, 'y': stack[0]})
  found = checkpoints.open(str(folder))
  np.testing.assert_array_equal(found.read('x.experts.w1', 1), stack[1])


def test_a_linear_layer_is_turned_to_act_from_the_left(tmp_path):
  stack = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
  folder = llama.write(tmp_path / 'm', {'a.q_proj.weight': stack[0],
                                        'experts.up_proj': stack})
  found = checkpoints.open(str(folder))
  np.testing.assert_array_equal(
      tensor.matrix(found, 'a.q_proj.weight'), stack[0].T)
  np.testing.assert_array_equal(
      tensor.matrix(found, 'experts.up_proj', 1), stack[1])


def test_hashes_are_those_of_the_files(sharded):
  found = checkpoints.open(str(sharded))
  seen = []
  files, tensors = tensor.digest(found, set(), seen.append)
  assert sorted(seen) == sorted(WEIGHTS) and len(files) == 3
  for label, digest in files.items():
    assert digest == hashlib.sha256((sharded / label).read_bytes()).hexdigest()
  for name, array in WEIGHTS.items():
    assert tensors[name] == hashlib.sha256(array.tobytes()).hexdigest()
    assert tensors[name] == tensor.sha256(found.read(name))


@pytest.mark.parametrize('dtype', [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_found_and_named(tmp_path, dtype, value):
  spoiled = {k: v.copy() for k, v in WEIGHTS.items()}
  name = 'model.layers.2.mlp.up_proj.weight'
  spoiled[name][-1, -1] = value
  found = checkpoints.open(str(llama.write(
      tmp_path / 'm', spoiled, dtype=dtype, shards=2)))
  tensor.digest(found, set(WEIGHTS) - {name}, print)
  with pytest.raises(ValueError, match=f'{name} holds NaN or infinity'):
    tensor.digest(found, {name}, print)
  assert not tensor.finite(found.read(name))
  assert tensor.finite(found.read('model.norm.weight'))


@pytest.mark.parametrize('at', [0, 5, 6, -1])
def test_a_look_for_nan_goes_to_the_end(monkeypatch, at):
  """In pieces, and whichever way the matrix lies."""
  monkeypatch.setattr(tensor, 'CHUNK', 24)  # bytes: six numbers
  array = np.zeros((3, 5), np.float32)
  assert tensor.finite(array) and tensor.finite(array.T)
  array.reshape(-1)[at] = np.nan
  assert not tensor.finite(array) and not tensor.finite(array.T)


@pytest.mark.parametrize('dtype', [np.float32, np.float16, ml_dtypes.bfloat16])
def test_the_largest_and_smallest_numbers_are_finite(dtype):
  info = ml_dtypes.finfo(dtype)
  extremes = [info.max, info.min, info.tiny, info.smallest_subnormal, 0]
  assert tensor.finite(np.array(extremes, dtype))


def refuse(folder, complaint):
  with pytest.raises(ValueError, match=complaint) as found:
    checkpoints.open(str(folder))
  assert '\n' not in str(found.value)


def edit_index(folder, change):
  path = folder / 'model.safetensors.index.json'
  index = json.loads(path.read_text())
  change(index['weight_map'])
  path.write_text(json.dumps(index))


@pytest.mark.parametrize('label', [
    '../other/model.safetensors', '/etc/passwd', 'sub/model.safetensors',
    '..', '', 'model.bin', '.hidden.safetensors', 'a\\b.safetensors', 3, None,
    'a\0.safetensors'])
def test_an_index_may_not_point_outside(sharded, label):
  edit_index(sharded, lambda where: where.update({'lm_head.weight': label}))
  refuse(sharded, 'points outside its directory: lm_head.weight')


@pytest.mark.parametrize('tensor, label', [
    ('a\nb', 'model-00001-of-00003.safetensors'),
    ('\x1b[2J', 'model-00001-of-00003.safetensors'),
    ('\ud800', 'model-00001-of-00003.safetensors'),
    ('x', 'a\nb.safetensors'), ('x', '\ud800.safetensors')])
def test_names_are_such_as_can_be_told(sharded, tensor, label):
  edit_index(sharded, lambda where: where.update({tensor: label}))
  refuse(sharded, r'is damaged \(the name .*\\')


def test_a_link_may_not_point_outside(sharded, tmp_path):
  label = 'model-00002-of-00003.safetensors'
  os.rename(sharded / label, tmp_path / 'elsewhere.safetensors')
  os.symlink(tmp_path / 'elsewhere.safetensors', sharded / label)
  refuse(sharded, 'link that points outside')


def test_the_cache_of_the_hub_is_read(tmp_path):
  """models--x/snapshots/REVISION holds links to models--x/blobs."""
  folder = tmp_path / 'models--x' / 'snapshots' / 'abc'
  llama.write(folder, WEIGHTS)
  blobs = tmp_path / 'models--x' / 'blobs'
  blobs.mkdir()
  os.rename(folder / 'model.safetensors', blobs / 'f00')
  os.symlink('../../blobs/f00', folder / 'model.safetensors')
  assert len(checkpoints.open(str(folder)).tensors) == len(WEIGHTS)


def test_index_and_files_must_agree(sharded):
  spare = json.loads((sharded / 'model.safetensors.index.json').read_text())
  edit_index(sharded, lambda where: where.update(
      {'more.weight': 'model-00001-of-00003.safetensors'}))
  refuse(sharded, r'more\.weight is in .*index.json, but not in')
  edit_index(sharded, lambda where: (
      where.pop('more.weight'), where.pop('lm_head.weight')))
  refuse(sharded, r'lm_head\.weight is in .* says nothing of it')
  name = next(iter(spare['weight_map']))
  edit_index(sharded, lambda where: where.update(
      spare['weight_map'] | {name: 'model-00003-of-00003.safetensors'}))
  refuse(sharded, 'but model.safetensors.index.json says model-00003')


def test_a_tensor_may_not_be_in_two_files(sharded):
  other = sharded / 'model-00003-of-00003.safetensors'
  found = safetensors.numpy.load_file(other)
  safetensors.numpy.save_file(
      found | {'model.embed_tokens.weight': np.zeros((2, 2))}, other)
  refuse(sharded, 'is both in model-0000')


@pytest.mark.parametrize('text', [
    '', '[]', '{}', '{"weight_map": []}', '{"weight_map": {}}'])
def test_a_damaged_index_is_refused(sharded, text):
  (sharded / 'model.safetensors.index.json').write_text(text)
  refuse(sharded, r'index\.json is damaged')


def test_missing_and_truncated_files_are_refused(sharded):
  path = sharded / 'model-00002-of-00003.safetensors'
  content = path.read_bytes()
  path.write_bytes(content[:-1])
  refuse(sharded, r'00002-of-00003\.safetensors is damaged')
  path.unlink()
  refuse(sharded, r'00002-of-00003\.safetensors is missing')


def test_pickled_weights_are_not_read(tmp_path):
  (tmp_path / 'pytorch_model.bin').write_bytes(b'cos\nsystem\n')
  refuse(tmp_path, r'pickled weights only \(pytorch_model\.bin\)')


def test_what_is_no_checkpoint_is_refused(tmp_path):
  refuse(tmp_path / 'none', 'is no directory, and no RUN_DIR@STEP')
  refuse(tmp_path, r'has neither model\.safetensors nor')
  safetensors.numpy.save_file({}, tmp_path / 'model.safetensors')
  refuse(tmp_path, 'holds no tensors')
  (tmp_path / 'checkpoints').mkdir()
  refuse(tmp_path, 'is a run: say which step, .*@last')


def test_a_single_file_goes_before_an_index(sharded):
  """As transformers would load it."""
  safetensors.numpy.save_file(
      {'x.weight': np.ones((2, 2))}, sharded / 'model.safetensors')
  assert list(checkpoints.open(str(sharded)).tensors) == ['x.weight']
