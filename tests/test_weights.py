"""Parameters from files: whole and fitting, or a line that says what is not."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft import config as door
from rlft import tokenizer, weights
from rlft.ops import trees
from rlft.training import checkpoint, metrics
from rlft.types import TrainState
from tests import tiny

TREE = {'a': {'w': np.arange(6, dtype=np.float32).reshape(2, 3).T},
        'b': np.array([1e-40, -2.0], np.float32)}


@pytest.fixture
def assets(tmp_path, monkeypatch):
  """A shelf of assets of its own."""
  monkeypatch.setattr(tokenizer, 'ASSETS', tmp_path)
  return tmp_path


@pytest.fixture
def shipped(assets):
  weights.save_asset(assets / 'toy', TREE, {'config': {'model': 'x'}})
  return assets


def test_an_asset_comes_back_to_the_bit(shipped):
  found = weights.load('asset:toy')
  assert jax.tree.structure(found) == jax.tree.structure({'policy': TREE})
  jax.tree.map(np.testing.assert_array_equal, found, {'policy': TREE})
  assert weights.config_of('asset:toy') == {'model': 'x'}
  weights.verify('asset:toy')
  assert sorted(p.name for p in shipped.iterdir()) == [
      'toy.json', 'toy.safetensors']


@pytest.mark.parametrize('spoil', [
    lambda file: file.write_bytes(file.read_bytes()[:-8]),
    lambda file: file.write_bytes(file.read_bytes()[:-1] + b'x'),
    lambda file: file.write_bytes(b'')])
def test_a_damaged_asset_is_refused(shipped, spoil):
  spoil(shipped / 'toy.safetensors')
  for read in (weights.load, weights.verify):
    with pytest.raises(ValueError, match=r'damaged .* install'):
      read('asset:toy')


def test_a_missing_asset_is_refused(shipped):
  (shipped / 'toy.safetensors').unlink()
  with pytest.raises(ValueError, match='missing: install'):
    weights.load('asset:toy')


@pytest.mark.parametrize('text', ['', '{"sha256": "0', '[]', '{}'])
def test_a_damaged_provenance_file_is_refused(shipped, text):
  (shipped / 'toy.json').write_text(text)
  with pytest.raises(ValueError, match=r'toy\.json is damaged.*install'):
    weights.verify('asset:toy')


def test_an_unknown_asset_lists_the_known(shipped):
  with pytest.raises(ValueError, match="no asset 'zebra'; known: toy"):
    weights.load('asset:zebra')


def test_what_names_nothing_is_refused():
  with pytest.raises(ValueError, match='write RUN_DIR@STEP'):
    weights.load('toy')


def test_matching_names_the_first_that_differs():
  assert weights.match(TREE, TREE, 'x') is TREE
  other = {'a': {'w': np.zeros((3, 3))}, 'b': TREE['b']}
  with pytest.raises(ValueError, match=(
      r'x does not fit .* 1 of .*: a/w is \(3, 3\), the model wants \(3, 2\)')):
    weights.match(other, TREE, 'x')
  with pytest.raises(ValueError, match=r'b is missing, the model wants \(2,\)'):
    weights.match({'a': TREE['a']}, TREE, 'x')
  with pytest.raises(ValueError, match=r'b is \(2,\), the model wants none'):
    weights.match(TREE, {'a': TREE['a']}, 'x')


def test_paths_go_there_and_back():
  flat = weights.flatten(TREE)
  assert list(flat) == ['a/w', 'b']
  assert all(x.flags['C_CONTIGUOUS'] for x in flat.values())
  jax.tree.map(np.testing.assert_array_equal, weights.nest(flat), TREE)


@pytest.fixture
def run_dir(tmp_path):
  """A run that saved steps 0 and 3, and was evaluated at both."""
  folder = tmp_path / 'run'
  folder.mkdir()
  (folder / 'config.json').write_text(door.to_json(tiny.sft_config()))
  params = {'policy': TREE, 'critic': {'w': np.zeros(1, np.float32)}}
  with checkpoint.open_manager(folder) as manager:
    for step in (0, 3):
      checkpoint.save(manager, TrainState(
          jnp.asarray(step, jnp.int32), jax.tree.map(jnp.asarray, params), (),
          jax.random.key(0)), 0, {})
      metrics.append(folder / 'evals.jsonl', {
          'step': step, 'eval': 'id', 'success': step / 4, 'solved': 'ff'})
  (folder / 'git.txt').write_text('0123abc\n')
  return folder


def test_a_checkpoint_is_a_name_too(run_dir):
  assert set(weights.load(f'{run_dir}@3')) == {'policy', 'critic'}
  weights.verify(f'{run_dir}@last')
  assert weights.config_of(f'{run_dir}@3')['model']['preset'] == 'tiny'
  with pytest.raises(ValueError, match=r'no step 4 .* saved: 0, 3'):
    weights.verify(f'{run_dir}@4')


def test_a_checkpoint_without_its_config_is_refused(run_dir):
  (run_dir / 'config.json').unlink()
  with pytest.raises(ValueError, match=r'no config\.json'):
    weights.verify(f'{run_dir}@3')


def test_shipping_tells_where_it_comes_from(run_dir, assets):
  path = weights.ship(f'{run_dir}@last', 'toy')
  about = json.loads((assets / 'toy.json').read_text())
  assert path == assets / 'toy.safetensors'
  assert (about['step'], about['commit']) == (3, '0123abc')
  assert about['scores'] == [{'step': 3, 'eval': 'id', 'success': 0.75}]
  assert not about['changed_since_commit']
  assert about['config']['num_steps'] == 4
  found = weights.load('asset:toy')  # the policy alone
  jax.tree.map(np.testing.assert_array_equal, found, {'policy': TREE})


def test_the_asset_of_this_package_is_whole_and_fits_its_model():
  weights.verify('asset:points24_nano')
  section = door.from_dict(weights.config_of('asset:points24_nano'))
  assert section.model.preset == 'nano'


@pytest.mark.parametrize('name', [3, None, ['runs/sft@3']])
def test_what_can_be_no_name_is_told(name):
  for function in (weights.load, weights.config_of):
    with pytest.raises(ValueError, match='names no checkpoint: write RUN_DIR@'):
      function(name)


def test_fingerprints_are_those_of_the_file():
  name = 'asset:points24_nano'
  loaded = weights.load(name)['policy']
  assert weights.fingerprints(name) == trees.fingerprints(loaded)
