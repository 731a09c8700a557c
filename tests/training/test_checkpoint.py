"""What is saved comes back to the bit; what was not finished is not there."""
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlft.training import checkpoint, seal
from rlft.types import TrainState

PARAMS = {'policy': {'w': jnp.array([0.1, 1e-40, -3.0]), 'b': jnp.zeros(2)},
          'critic': {'w': jnp.ones(2, jnp.bfloat16)}}


def state_at(step):
  tx = optax.adam(0.1)
  moments = tx.init(PARAMS)
  _, moments = tx.update(jax.tree.map(lambda x: x + 1, PARAMS), moments)
  return TrainState(
      jnp.asarray(step, jnp.int32), PARAMS, moments, jax.random.key(9))


def bits(tree):
  return [np.asarray(jax.random.key_data(x) if jnp.issubdtype(
      x.dtype, jax.dtypes.prng_key) else x).tobytes()
      for x in jax.tree.leaves(tree)]


def fill(run_dir, steps):
  with checkpoint.open_manager(run_dir) as manager:
    for step in steps:
      checkpoint.save(manager, state_at(step), {'seen': step}, {'note': 1})


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
  path = tmp_path_factory.mktemp('run')
  fill(path, [0, 5, 12])
  return path


def test_a_state_comes_back_to_the_bit(run_dir):
  with checkpoint.open_manager(run_dir) as manager:
    assert manager.latest_step() == 12
    state, source_state = checkpoint.restore(manager, 5, state_at(0))
  assert jax.tree.structure(state) == jax.tree.structure(state_at(5))
  assert bits(state) == bits(state_at(5))
  assert source_state == {'seen': 5}


def test_parameters_come_back_without_the_optimizer(run_dir):
  params = checkpoint.load_params(f'{run_dir}@12')
  assert bits(params) == bits(PARAMS)
  assert params['critic']['w'].dtype == jnp.bfloat16


def test_a_state_of_another_shape_is_refused(run_dir):
  other = state_at(0)._replace(params={'policy': {'w': jnp.zeros(4)}})
  with (checkpoint.open_manager(run_dir) as manager,
        pytest.raises(ValueError)):
    checkpoint.restore(manager, 5, other)


def test_names_are_resolved(run_dir):
  assert seal.steps(run_dir) == [0, 5, 12]
  assert checkpoint.resolve_step(f'{run_dir}@5') == 5
  assert checkpoint.resolve_step(f'{run_dir}@last') == 12
  assert checkpoint.split('a@b/c@7')[1] == '7'


@pytest.mark.parametrize('step', ['6', '-5', 'first', ''])
def test_a_missing_step_lists_those_saved(run_dir, step):
  with pytest.raises(ValueError, match='; saved: 0, 5, 12'):
    checkpoint.resolve_step(f'{run_dir}@{step}')


def test_what_a_kill_left_is_gone_before_anything_is_saved(tmp_path):
  folder = tmp_path / 'checkpoints'
  kept = ['000003.corrupt', 'mine', '000001']
  for name in (*kept, '000002/params', 'trialabc'):
    (folder / name).mkdir(parents=True)
  (folder / '000001' / 'commit_success.txt').touch()
  with checkpoint.open_manager(tmp_path):
    assert sorted(p.name for p in folder.iterdir()) == sorted(kept)


def test_steps_that_were_set_aside_are_told(tmp_path):
  (tmp_path / 'checkpoints' / '000005.corrupt').mkdir(parents=True)
  with pytest.raises(ValueError, match=(
      r'saved: none; set aside as damaged: 000005\.corrupt')):
    checkpoint.resolve_step(f'{tmp_path}@last')


def test_what_is_no_checkpoint_is_told(tmp_path):
  with pytest.raises(ValueError, match='write RUN_DIR@STEP'):
    checkpoint.split('runs/sft')
  with pytest.raises(ValueError, match=(
      r'no checkpoints in .*nor config\.json: run it first: rlft run --conf')):
    checkpoint.resolve_step(f'{tmp_path}@3')
  (tmp_path / 'config.json').write_text('{"seed": 3}')
  assert checkpoint.run_config(tmp_path) == {'seed': 3}
  with pytest.raises(ValueError, match=(
      fr'no checkpoints in {tmp_path}: run it first: .* --run_dir={tmp_path}')):
    checkpoint.resolve_step(f'{tmp_path}@3')


def test_reading_makes_nothing(run_dir, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(run_dir, copy)
  before = sorted(copy.rglob('*'))
  checkpoint.load_params(f'{copy}@last')
  assert sorted(copy.rglob('*')) == before


def test_a_step_that_was_not_committed_is_not_there(run_dir, tmp_path):
  """A save that was killed leaves a directory without its commit file."""
  copy = tmp_path / 'copy'
  shutil.copytree(run_dir, copy)
  newest = copy / 'checkpoints' / '000012'
  (newest / 'commit_success.txt').unlink()
  (copy / 'checkpoints' / '000099').mkdir()
  assert seal.steps(copy) == [0, 5]
  with checkpoint.open_manager(copy) as manager:
    assert manager.latest_step() == 5
    checkpoint.save(manager, state_at(12), {'seen': 12}, {})
  assert seal.steps(copy) == [0, 5, 12]


def test_a_step_that_is_there_is_not_written_again(tmp_path):
  fill(tmp_path, [1])
  with checkpoint.open_manager(tmp_path) as manager:
    other = state_at(1)._replace(params=jax.tree.map(jnp.zeros_like, PARAMS))
    checkpoint.save(manager, other, {}, {})
  assert bits(checkpoint.load_params(f'{tmp_path}@1')) == bits(PARAMS)
