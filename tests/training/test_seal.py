"""Nothing that is not what was saved is ever taken for it."""
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft import main
from rlft.training import checkpoint, seal
from tests.training.test_checkpoint import bits, fill, state_at

ITEMS = ('params', 'rest', 'seal')


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  path = tmp_path_factory.mktemp('whole')
  fill(path, [0, 5, 12])
  return path


@pytest.fixture
def run_dir(whole, tmp_path):
  shutil.copytree(whole, tmp_path / 'run')
  return tmp_path / 'run'


def newest(run_dir):
  return run_dir / 'checkpoints' / '000012'


def files(folder, item):
  return sorted(p for p in (folder / item).rglob('*')
                if p.is_file() and p.stat().st_size)


def flip(path, bit):
  data = bytearray(path.read_bytes())
  data[bit // 8] ^= 1 << bit % 8
  path.write_bytes(data)


def latest(run_dir):
  with checkpoint.open_manager(run_dir) as manager:
    return checkpoint.restore_latest(manager, state_at(0))


# reads that Orbax has given up end after their event loop has
@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize('item', ITEMS)
def test_a_flipped_bit_is_seen_or_changes_nothing(run_dir, item):
  """Bits at random places of every file of a step: 200 of them in all."""
  rng = np.random.default_rng(0)
  caught = 0
  for path in files(newest(run_dir), item):
    kept = path.read_bytes()
    for _ in range(8):
      flip(path, int(rng.integers(8 * len(kept))))
      with checkpoint.open_manager(run_dir) as manager:
        try:
          state, source = checkpoint.restore(manager, 12, state_at(0))
        except ValueError:
          caught += 1
        else:
          assert bits(state) == bits(state_at(12)) and source == {'seen': 12}
      path.write_bytes(kept)
  assert caught


def test_a_number_that_was_changed_is_seen(run_dir, whole):
  """A step with another one's arrays: whole files, and wrong."""
  step = newest(run_dir)
  shutil.rmtree(step / 'params')
  other = whole.parent / 'other'
  if not other.exists():
    with checkpoint.open_manager(other) as manager:
      state = state_at(12)
      checkpoint.save(manager, state._replace(
          params=jax.tree.map(lambda x: x * 2, state.params)), {}, {})
  shutil.copytree(other / 'checkpoints' / '000012' / 'params', step / 'params')
  with (checkpoint.open_manager(run_dir) as manager,
        pytest.raises(seal.Damaged, match='is not what was saved')):
    checkpoint.restore(manager, 12, state_at(0))
  with pytest.raises(seal.Damaged, match='is not what was saved'):
    checkpoint.load_params(f'{run_dir}@12')
  with pytest.raises(seal.Damaged, match='policy/w is not what was saved'):
    checkpoint.load_leaf(f'{run_dir}@12', 'policy/w')


@pytest.mark.parametrize('spoil', [
    lambda step: [p.write_bytes(b'') for p in files(step, 'params')],
    lambda step: shutil.rmtree(step / 'rest'),
    lambda step: shutil.rmtree(step / 'params'),
    lambda step: (step / 'seal' / 'metadata').unlink(),
    lambda step: (step / 'seal' / 'metadata').write_text('{}'),
    lambda step: (step.rename(step.with_name('x')),
                  shutil.copytree(step.with_name('000005'), step)),
], ids=['empty', 'no rest', 'no params', 'no seal', 'no fingerprints',
        'another step'])
def test_a_damaged_step_is_set_aside_and_the_one_before_taken(
    run_dir, spoil, capsys):
  spoil(newest(run_dir))
  state, source = latest(run_dir)
  assert capsys.readouterr().err == (
      f'rlft: {newest(run_dir).resolve()} is damaged: renamed 000012.corrupt\n')
  assert int(state.step) == 5 and source == {'seen': 5}
  assert seal.steps(run_dir) == [0, 5]
  assert (run_dir / 'checkpoints' / '000012.corrupt').is_dir()
  with checkpoint.open_manager(run_dir) as manager:
    checkpoint.save(manager, state_at(12), {'seen': 12}, {})
  assert int(latest(run_dir)[0].step) == 12


@pytest.mark.parametrize('error', [
    MemoryError('host'), PermissionError(13, 'denied'),
    jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')])
def test_what_is_no_damage_sets_nothing_aside(run_dir, monkeypatch, error):
  def fail(*_, **__):
    raise error

  with checkpoint.open_manager(run_dir) as manager:
    monkeypatch.setattr(manager, 'restore', fail)
    with pytest.raises(type(error)):
      checkpoint.restore_latest(manager, state_at(0))
  assert seal.steps(run_dir) == [0, 5, 12]


def test_no_run_begins_anew_where_every_step_is_damaged(run_dir):
  for step in (0, 5, 12):
    (run_dir / 'checkpoints' / f'{step:06d}' / 'seal' / 'metadata').unlink()
  for _ in range(2):  # nor on a second try, when they have been set aside
    with pytest.raises(seal.Lost, match='is whole, they are kept as'):
      latest(run_dir)


def test_a_first_save_that_was_killed_is_no_damage(run_dir):
  """It was never committed, so nothing is lost."""
  shutil.rmtree(run_dir / 'checkpoints')
  assert latest(run_dir) is None
  (run_dir / 'checkpoints' / '000000').mkdir(parents=True, exist_ok=True)
  assert latest(run_dir) is None


@pytest.mark.parametrize('change, told', [
    (lambda p: {**p, 'b': p['b'].astype(jnp.bfloat16)}, 'float32 .* bfloat16'),
    (lambda p: {**p, 'w': jnp.zeros(4)}, r'\[3\] there and float32 \[4\] here'),
    (lambda p: {'w': p['w']}, 'policy/b is float32 .* there and absent'),
])
def test_another_model_is_no_damage(run_dir, change, told):
  """Orbax casts to the dtype it is asked for, and says nothing."""
  state = state_at(0)
  other = state._replace(params={
      **state.params, 'policy': change(state.params['policy'])})
  with (checkpoint.open_manager(run_dir) as manager,
        pytest.raises(ValueError, match=told) as error):
    checkpoint.restore_latest(manager, other)
  assert not isinstance(error.value, seal.Damaged)
  assert seal.steps(run_dir) == [0, 5, 12]


def test_a_seal_survives_what_json_does_to_it():
  told = seal.seal({'w': jnp.ones(2)}, source={3: (1, 2), 10: None})
  assert seal.opened(json.loads(json.dumps(told))) == told
  told['source']['3'] = [1, 3]
  with pytest.raises(seal.Damaged, match='its seal is broken'):
    seal.opened(told)


def test_the_command_ends_with_its_own_exit_code(monkeypatch, capsys):
  def lost(*_):
    raise seal.Lost('no checkpoint in x is whole')

  monkeypatch.setattr(main, 'report', lost)
  assert main.main(['report', 'x']) == 46
  assert capsys.readouterr().err == 'rlft: no checkpoint in x is whole\n'
