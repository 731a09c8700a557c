"""Objectives without a critic in a run: one update of a rollout of groups."""
import jax
import numpy as np
import pytest

from rlft import binding, parts, startup
from rlft.ops import masked
from rlft.training import steps
from tests import tiny

# With a ratio of tokens, with one of rows and a KL that follows, with weights.
NAMES = ('grpo', 'rloo', 'expert_iteration')
CREDIT = dict(expert_iteration=dict(solved=0.0))


def config_of(name):
  config = tiny.rl_config(1)
  config.critic = False
  config.objective = dict(name=name)
  config.advantages = CREDIT.get(name, {})
  config.optimizer = dict(learning_rate=1e-3)
  config.passes = dict(epochs=1, minibatches=2, microbatches=2)
  config.evals = {}
  if name == 'rloo':
    config.advantages = dict(kl_reward_coef=0.05)
    config.experience.update(kl_target=0.1, kl_horizon=100)
  return config


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_an_update_moves_the_policy(name):
  job = binding.build(config_of(name))
  before = jax.device_get(job.state.params)
  source_state, batch, data = job.source.next(
      job.source.init(), job.state.params, {}, steps.stream(
          job.state.key, 'rollout', 0))
  startup.check(data, job.probe(job.state.params, batch), 'float32')
  # What a fresh policy writes is all wrong alike: pay it at random.
  rollout = batch.rollout
  paid = np.random.default_rng(0).normal(size=(len(rollout.mask), 1))
  batch = parts.load('objectives', name).advantages(rollout._replace(
      rewards=masked.lasts(rollout.mask) * paid.astype(np.float32)),
      **CREDIT.get(name, {}))
  state, seen = job.update(job.state, batch)
  assert set(state.params) == {'policy'} and seen['skipped'] == 0
  assert seen.get('first_ratio_max', 1) == pytest.approx(1, abs=1e-4)
  assert all(np.isfinite(v) for v in seen.values())
  moved = jax.tree.map(
      lambda a, b: np.abs(a - b).max(), before, jax.device_get(state.params))
  assert max(jax.tree.leaves(moved)) > 1e-5
  if name == 'rloo':
    assert data['kl_reward_coef'] == 0.05 and 0 < source_state < 0.05
