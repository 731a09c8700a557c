"""A run with adapters, and everything that reads what it made."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlft
from rlft import binding, check, weights
from rlft import config as door
from rlft.adapters import lora
from rlft.checkpoints import runs
from rlft.ops import trees
from rlft.training import checkpoint, metrics
from tests import tiny

pytestmark = pytest.mark.slow
WHAT = dict(select=r'(query|out)/kernel$', draws=1, top=0.1)


def lora_config():
  config = tiny.sft_config(24)
  config.lora = dict(rank=4, alpha=8.0, select='kernel$')
  config.optimizer.learning_rate = 3e-2
  config.evals = dict(id=dict(
      env=tiny.game(split='held_out'), n=6, rows=6, max_new_tokens=6,
      nll=True))
  config.evaluate.every = config.checkpoint.every = 0
  config.analyses = dict(rotation=dict(every=24, **WHAT))
  return config


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('adapted')
  rlft.run(lora_config(), folder)
  return folder


@pytest.fixture(scope='module')
def name(run_dir):
  return f'{run_dir}@24'


@pytest.fixture(scope='module')
def policy(name):
  """Merged by hand, in float64, from what lies in the checkpoint."""
  stored = {k: np.asarray(v, np.float64) for k, v in trees.named(
      checkpoint.load_params(name)).items()}
  whole = {k.removeprefix('frozen/policy/'): v for k, v in stored.items()
           if k.startswith('frozen/policy/')}
  assert stored['frozen/scale'] == 2
  for path in [k for k in whole if k.endswith('kernel')]:
    a, b = (stored[f'lora/{path.removesuffix("kernel")}{k}'] for k in 'ab')
    whole[path] += 2 * a @ b
  return whole


def same(found, policy):
  found = trees.named(found)
  assert sorted(found) == sorted(policy)
  for path, leaf in found.items():
    np.testing.assert_allclose(leaf, policy[path], atol=1e-6, err_msg=path)


def test_the_loss_falls_and_the_base_stays(run_dir, name):
  losses = [row['loss'] for row in metrics.read(run_dir / 'metrics.jsonl')]
  assert np.mean(losses[-3:]) < losses[0] - 0.5
  scored = metrics.read(run_dir / 'evals.jsonl')
  assert scored[-1]['reference_nll'] < scored[0]['reference_nll'] - 0.5
  first, last = (checkpoint.load_params(f'{run_dir}@{s}') for s in (0, 24))
  jax.tree.map(np.testing.assert_array_equal, last['frozen'], first['frozen'])


def test_the_policy_of_a_checkpoint_is_the_merged_one(name, policy):
  found = weights.load(name)
  assert set(found) == {'policy'}
  same(found['policy'], policy)
  assert weights.fingerprints(name) == trees.fingerprints(found['policy'])
  read, flat = runs.read(name), trees.named(found['policy'])
  assert set(read.tensors) == set(flat)
  for path in flat:  # one at a time, and the same to the bit
    np.testing.assert_array_equal(read.read(path, None), flat[path])


def test_a_run_that_starts_from_it_starts_as_it_is(name, policy):
  config = lora_config()
  config.init, config.critic = name, True
  _, params = binding.build_params(config, tiny.words())
  same(params['frozen']['policy'], policy)  # with new adapters, and alone
  assert not params['lora']['head']['b'].any()
  body = trees.named(params['critic']['model'])
  np.testing.assert_allclose(
      body['layers/mlp/up/kernel'], policy['layers/mlp/up/kernel'], atol=1e-6)
  config.lora.rank = 0
  same(binding.build_params(config, tiny.words())[1]['policy'], policy)


def test_its_evaluation_is_that_of_the_run(run_dir, name):
  """Which saw the merged policy, too: the same completions and scores."""
  logged = metrics.read(run_dir / 'evals.jsonl')[-1]
  again = rlft.scores(name)[0]
  for timed in ('completions_per_second', 'seconds'):
    assert again.pop(timed) and logged.pop(timed)
  assert {'step': 24, **again} == logged


def test_the_rotation_in_the_loop_is_that_of_the_merged_weights(run_dir, name):
  rows = metrics.read(run_dir / 'analyses' / 'rotation.jsonl')
  later = rlft.compare(f'{run_dir}@0', name, **WHAT)['rows']
  assert len(rows) == len(later) == 4
  for row, other in zip(rows, later, strict=True):
    assert row.pop('step') == 24
    numbers = {k: v for k, v in other.items() if isinstance(v, float)}
    assert {k: row[k] for k in numbers} == pytest.approx(
        numbers, rel=1e-3, abs=1e-5, nan_ok=True)
    assert row['update_norm'] > 0.1


def test_healed_it_is_a_run_without_adapters(run_dir, name, policy, tmp_path):
  """Half of the way back to the base, of the matrices of the blocks."""
  out = tmp_path / 'healed'
  rlft.heal(f'{run_dir}@0', name, out, edit='interpolate', amount=0.5)
  assert set(checkpoint.load_params(f'{out}@24')) == {'policy'}
  healed = trees.named(weights.load(f'{out}@24')['policy'])
  base = trees.named(weights.load(f'{run_dir}@0')['policy'])
  path = 'layers/mlp/up/kernel'
  np.testing.assert_allclose(
      healed[path], (base[path] + policy[path]) / 2, atol=1e-6)
  np.testing.assert_allclose(
      healed['head/kernel'], policy['head/kernel'], atol=1e-6)


def test_rollouts_are_of_the_adapted_policy():
  """Sampled merged, scored as they are: the two agree, and on no base."""
  job = binding.build(tiny.lora_config())
  params = job.state.params
  moved = {**params, 'lora': jax.tree.map(
      lambda x: x + 0.2 * jax.random.normal(jax.random.key(x.size), x.shape),
      params['lora'])}
  _, _, data = job.source.next(0, moved, {}, jax.random.key(1))
  assert data['sampler_gap'] < 1e-4
  assert data['reference_gap'] > 0.1  # the reference is the start


@pytest.mark.parametrize('section, complaint', [
    (dict(rank=2, select='embed'), r'config\.lora: embed/embedding is no lin'),
    (dict(rank=40), r'config\.lora: rank=40 is more than .*, 16: lower it'),
    (dict(rank=2, select='q_proj'), r'config\.lora: no parameter matches'),
    (dict(rank=2, alpha=0.0), r'config\.lora: .*alpha=0\.0 above 0')])
def test_a_section_that_does_not_fit_is_refused_before_the_run(
    section, complaint):
  config = lora_config()
  config.lora = section | {k: v for k, v in dict(
      alpha=16.0, select='').items() if k not in section}
  with pytest.raises(ValueError, match=complaint):
    check.run(config)


def test_the_door_knows_the_section():
  config = lora_config()
  config.lora.rank = -1
  with pytest.raises(ValueError, match=r'config\.lora\.rank is -1: .* from 0'):
    door.validate(config)
  config.lora = dict(rank=1, alpha=1.0, select='', dropout=0.1)
  with pytest.raises(ValueError, match=r'lora is called dropout; known: alpha'):
    door.validate(config)


def test_merged_weights_are_float32_numbers_of_the_host(name):
  for leaf in jax.tree.leaves(weights.load(name)):
    assert isinstance(leaf, np.ndarray) and leaf.dtype == jnp.float32
  assert lora.merge(weights.load(name)).keys() == {'policy'}
