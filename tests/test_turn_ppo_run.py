"""PPO of whole turns from config to checkpoint: the paper's text, as a chat."""
import jax
import numpy as np
import pytest

from rlft import api, binding, check, envs, episodes, startup, tokenizer
from rlft.experience import rollouts
from rlft.training import metrics, steps
from tests import tiny

OBJECTIVES = {
    'turn_ppo': dict(discount=0.9, lam=0.95, whiten=True),
    'turn_ppo_published': dict(discount=0.9, lam=0.95, solved=1.0)}
EACH = pytest.mark.parametrize('name', OBJECTIVES)


def config_of(name, **env):
  config = tiny.rl_config(num_steps=2)
  config.tokenizer = 'asset:qwen2_chat'
  config.env.text = 'paper'
  config.env.update(env)
  config.objective = dict(name=name, clip=0.1)
  config.advantages = OBJECTIVES[name]
  config.experience.update(
      prompts=4, group=1, tries=3, max_new_tokens=6, length=448,
      temperature=1.0, skip_tokens=2)
  config.passes = dict(epochs=2, minibatches=1)
  config.evals = {}
  return config


@pytest.mark.slow
def test_a_run_of_a_chat(tmp_path):
  """Two updates; the first ratio of a turn is 1, and the weights move."""
  api.run(config_of('turn_ppo'), tmp_path / 'run')
  rows = metrics.read(tmp_path / 'run' / 'metrics.jsonl')
  assert [row['step'] for row in rows] == [1, 2]
  for row in rows:
    assert row['turns'] == 3 and row['completion_tokens'] > 12
    assert row['first_ratio_max'] == pytest.approx(1, abs=1e-4)
    assert row['first_approx_kl'] < 1e-8 < row['approx_kl']
    assert row['ratio_max'] > row['first_ratio_max'] + 1e-5
    assert all(np.isfinite(row[k]) for k in (
        'loss', 'policy_loss', 'value_loss', 'grad_norm'))
    assert row['value_loss'] > 0 and row['reward'] < 0


@EACH
def test_a_first_rollout_is_accepted(name):
  """Wanted of it: a turn's ratio is 1, and its tokens share its numbers."""
  job = binding.build(config_of(name))
  _, batch, data = job.source.next(
      job.source.init(), job.state.params, {}, steps.stream(
          job.state.key, 'rollout', 0))
  startup.check(data, job.probe(job.state.params, batch), 'float32')
  batch = jax.device_get(batch)
  for row in range(4):
    ids = batch.rollout.turn_ids[row]
    for turn in range(3):
      at = np.flatnonzero(ids == turn)
      assert len(set(batch.advantages[row, at])) == 1
      # a fresh model writes no formula: all but two tokens are thought
      assert {*batch.rollout.weights[row, at[2:]]} <= {0.5}
      assert not batch.rollout.weights[row, at[:2]].any()


@EACH
def test_what_does_not_fit_is_told_before_the_run(name):
  config = config_of(name)
  check.run(config)
  config.critic = False
  with pytest.raises(ValueError, match=r'set config\.critic=True'):
    check.run(config)
  for wrong in (1.5, '1', True):
    with pytest.raises(ValueError, match='thought_coef is a weight between'):
      check.run(config_of(name, thought_coef=wrong))


@pytest.mark.parametrize('family', ['qwen2_chat', 'llama3_chat'])
def test_a_demonstrations_formula_begins_at_the_token_with_its_quote(family):
  """The published first token of the formula: a space and a quote."""
  chat = tokenizer.load(f'asset:{family}')
  game = envs.bind('general_points', text='paper', mode='corrected')
  task = game.sample(np.random.default_rng(0))
  wrote = chat.completion(game.demonstrate(task))
  scores = episodes.Scores([0.0] * len(wrote), [0.0] * len(wrote))
  played, = episodes.play(
      game.respond, [task], lambda *_: ([wrote], [scores]), None, chat,
      jax.random.key(0))
  weights = np.array(rollouts.weigh(played, game.spans, chat.decode, 2))
  own = weights[np.array(played.mask)]
  border = int(np.flatnonzero(own == 1)[0])
  assert own.tolist() == [0, 0, *[0.5] * (border - 2), *[1.0] * (
      len(wrote) - border)]
  assert chat.decode(wrote[border:border + 3]) == ' "formula":'
  assert chat.decode(wrote[border:border + 1]) == ' "'
