"""PPO of whole turns from config to checkpoint: the paper's text, as a chat."""
import jax
import numpy as np
import pytest

from rlft import api, binding, check, envs, episodes, startup, tokenizer
from rlft.experience import rollouts
from rlft.objectives import turn_ppo, turn_ppo_published
from rlft.training import metrics, steps
from rlft.types import Rollout
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


def test_the_published_step_accounting_by_hand():
  """Five answers are scored; a sixth is written, unread, and costs 1.

  The second hand is solved at its fifth try, so there is no sixth.
  """
  words = tiny.words()
  game = envs.bind('general_points', text='compact', mode='faithful')
  hands = [game.sample(np.random.default_rng(seed)) for seed in (0, 1)]
  right = [game.demonstrate(hand) for hand in hands]
  script = iter([*[['1', '1']] * 4, ['1', right[1]], [right[0]]])

  def complete(params, contexts, keys):
    new = [[*words.encode(text), words.end] for text in next(script)]
    assert len(new) == len(contexts)
    return new, [episodes.Scores(*2 * [[0.0] * len(row)]) for row in new]

  played = episodes.play(game.respond, hands, complete, None, words,
                         jax.random.key(0), tries=6)
  assert next(script, None) is None  # nobody has a seventh
  assert [[t.reward for t in e.turns] for e in played] == [
      [-3, -3, -3, -3, -3, -1], [-3, -3, -3, -3, 5]]
  assert [next(iter(e.turns[-1].parts)) for e in played] == [
      'step_limit', 'correct']
  arrays = rollouts.to_arrays(
      played, [[1.0] * len(e.tokens) for e in played], words, length=160)
  zero = np.zeros(arrays['mask'].shape, np.float32)
  rollout = Rollout(**arrays, log_probs=zero, ref_log_probs=zero, values=zero,
                    prompt_ids=np.arange(2))

  def returns(part):
    found = np.asarray(jax.jit(part.advantages)(rollout).returns)
    return [[found[row][rollout.turn_ids[row] == turn][0] for turn in range(
        len(played[row].turns))] for row in (0, 1)]

  def discounted(rewards, after=0.0):  # values are 0: a sum by 0.9 * 0.95
    found = []
    for reward in reversed(rewards):
      found.insert(0, reward + 0.855 * (found[0] if found else after))
    return found

  second = discounted([-3, -3, -3, -3, 5])
  assert second[-2:] == pytest.approx([1.275, 5])
  failed = [-3, -3, -3, -3, -3, -1]
  # the hand that failed takes over what comes next; a solved one does not
  for part, after in ((turn_ppo, 0.0), (turn_ppo_published, second[0])):
    first, last = returns(part)
    np.testing.assert_allclose(first, discounted(failed, after), rtol=1e-5)
    np.testing.assert_allclose(last, second, rtol=1e-5)
  # the sixth is trained on as any other turn, with -1 for its reward
  assert returns(turn_ppo)[0][-2:] == pytest.approx([-3.855, -1])
