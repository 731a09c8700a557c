"""rlft's algebra of RL beside TRL's GRPO, RLOO and last PPO.

    make parity         # 1,000 batches
    make parity-full    # 10,000

PARITY_SEED repeats a run. Where a definition differs (docs/rl_details.md), what
is tested is that ours is theirs after the transformation that is stated there.
"""
import os
import random

import jax.numpy as jnp
import numpy as np
import pytest

from rlft.rewards import kl as kl_reward
from tests.parity.rl import batches, exchange, ours, settings

SEED = int(os.environ.get('PARITY_SEED', random.SystemRandom().randrange(
    2**31)))
COUNT = int(os.environ.get('PARITY_BATCHES', 2000)) // 2
pytestmark = pytest.mark.xdist_group('trl')

TOKENS = ('grpo/token_mean', 'dapo')  # means over all tokens
ROWS = (  # means over rows
    'grpo/row_mean', 'grpo/constant_length', 'dr_grpo', 'gspo', 'gspo_wide')


@pytest.fixture(scope='module')
def drawn():
  """Prompts of 3 rows that follow each other, as TRL has them."""
  print(f'PARITY_SEED={SEED}')
  ids = np.repeat(np.arange(batches.B // settings.GROUP), settings.GROUP)
  made = batches.draw(SEED, COUNT)
  return made._replace(prompt_ids=np.broadcast_to(
      ids.astype(np.int32), made.prompt_ids.shape))


@pytest.fixture(scope='module')
def own(drawn):
  return ours.answers(drawn)


@pytest.fixture(scope='module')
def trl(drawn, tmp_path_factory):
  return exchange.ask('trl_side', 'TRL_PYTHON',
                      tmp_path_factory.mktemp('trl'), drawn._asdict())


@pytest.mark.parametrize('name', TOKENS)
def test_a_mean_over_tokens_is_trls(name, drawn, own, trl):
  every = drawn.tokens >= 0
  exchange.check(name, own[name], trl[name], every)
  name = f'{name}/log_probs'
  exchange.check(name, own[name], trl[name], every)


@pytest.mark.parametrize('name', ROWS)
def test_a_mean_over_rows_counts_those_without_tokens_in_trl(
    name, drawn, own, trl):
  """And so it does of 0: ours are means over the rows with a token."""
  share = drawn.mask.any(2).mean(1)
  every = drawn.tokens >= 0
  exchange.check(name, own[name] * share, trl[name], every)
  name = f'{name}/log_probs'
  exchange.check(name, own[name] * share[:, None, None], trl[name], every)


def test_rloo_counts_rows_without_tokens_in_trl(drawn, own, trl):
  """Whose ratio is 1: their advantages are in its loss, not its gradient."""
  share = drawn.mask.any(2).mean(1)
  empty = (drawn.row_gains * ~drawn.mask.any(2)).mean(1)
  every = drawn.tokens >= 0
  exchange.check('rloo', own['rloo'] * share - empty, trl['rloo'], every)
  exchange.check('rloo/log_probs',
                 own['rloo/log_probs'] * share[:, None, None],
                 trl['rloo/log_probs'], every)


def test_the_kl_of_grpo_is_weighed_by_the_ratio_in_trl(drawn, own, trl):
  """By default: ratio * k3, whose gradient expects KL(policy || reference);
  ours is k3 alone, as in arXiv 2402.03300."""
  name, coef = 'grpo/row_mean', settings.GRPO['kl_coef']
  share = drawn.mask.any(2).mean(1)
  weights = drawn.mask / np.maximum(drawn.mask.sum(2, keepdims=True), 1)
  weights = coef * weights / batches.B
  log_r = drawn.ref_log_probs - drawn.new_log_probs
  ratio, r = np.exp(drawn.new_log_probs - drawn.log_probs), np.exp(log_r)
  k3 = r - 1 - log_r
  every = drawn.tokens >= 0
  exchange.check(
      name, own[name] * share + (weights * (ratio - 1) * k3).sum((1, 2)),
      trl['trl:grpo/corrected'], every)
  more = ratio * (k3 + 1 - r) - (1 - r)
  exchange.check(
      f'{name}/log_probs',
      own[f'{name}/log_probs'] * share[:, None, None] + weights * more,
      trl['trl:grpo/corrected/log_probs'], every)


@pytest.fixture(scope='module')
def grouped(drawn):
  """As TRL has it, rows without tokens are in their groups."""
  found = ours.answers(batches.counted(drawn))
  return {name: x * drawn.mask for name, x in found.items()
          if name.endswith('/advantages')}


@pytest.mark.parametrize('name', ['dr_grpo/advantages', 'rloo/advantages'])
def test_advantages_are_trls(name, drawn, grouped, trl):
  exchange.check(name, grouped[name], trl[name], drawn.tokens >= 0)


def test_groups_are_divided_by_one_less_and_a_larger_epsilon(
    drawn, grouped, trl):
  """(deviation by n - 1) + 1e-4 in TRL, (deviation by n) + 1e-6 in ours."""
  n = settings.GROUP
  returns = drawn.rewards.sum(2).reshape(-1, batches.B // n, n)
  deviation = np.repeat(returns.std(2), n, axis=1)[:, :, None]
  scaled = grouped['grpo/advantages'] * (deviation + 1e-6) / (
      deviation * np.sqrt(n / (n - 1)) + 1e-4)
  exchange.check('grpo/advantages', scaled, trl['trl:grpo/advantages'],
                 drawn.tokens >= 0)


# the last PPO

@pytest.fixture(scope='module')
def right(drawn):
  """Rows that begin in the first column, as TRL's responses do."""
  rng = np.random.default_rng(SEED)
  lengths = rng.integers(1, batches.T + 1, drawn.mask.shape[:2])
  mask = np.arange(batches.T) < lengths[:, :, None]
  scores = drawn.row_gains
  return drawn._replace(mask=mask), lengths, scores


@pytest.fixture(scope='module')
def ppo(right, tmp_path_factory):
  made, lengths, scores = right
  return exchange.ask(
      'trl_ppo_side', 'TRL_PYTHON', tmp_path_factory.mktemp('trl_ppo'),
      made._asdict() | dict(lengths=lengths, scores=scores),
      path=os.environ['TRL_PPO_PATH'])


@pytest.mark.parametrize('estimator', ['k1', 'k3'])
def test_gae_of_rows_that_end_one_later_is_trls(estimator, right, ppo):
  """The score of TRL stands one token behind the end, whose value is in it."""
  made, lengths, scores = right
  cost = np.asarray(kl_reward.penalise(
      *(jnp.asarray(x.reshape(-1, batches.T)) for x in (
          np.zeros_like(made.rewards), made.log_probs, made.ref_log_probs,
          made.mask)), coef=settings.KL_REWARD_COEF, estimator=estimator))
  place = np.arange(batches.T)
  behind = place == np.minimum(lengths, batches.T - 1)[:, :, None]
  rewards = cost.reshape(made.mask.shape) + behind * scores[:, :, None]
  every = made.tokens > 0
  exchange.check('rewards', rewards, ppo[f'{estimator}/rewards'], every)
  longer = made._replace(
      mask=place <= lengths[:, :, None], rewards=rewards.astype(np.float32))
  found = ours.answers(longer)
  exchange.check(
      'returns', found['gae/returns'], ppo[f'{estimator}/returns'], every)
  # whitened over the row itself, by n - 1
  n = made.tokens[:, None, None]
  gains = found['gae'] * made.mask
  mean = gains.sum((1, 2), keepdims=True) / n
  spread = (np.square(gains - mean) * made.mask).sum(
      (1, 2), keepdims=True) / (n - 1)
  exchange.check(
      'advantages', (gains - mean) / np.sqrt(spread) * made.mask,
      ppo[f'{estimator}/advantages'], every)


def test_ppos_loss_is_trls(right, ppo):
  """Of the policy over a row, of the critic over one token more."""
  made, lengths, _ = right
  longer = made._replace(
      mask=np.arange(batches.T) <= lengths[:, :, None])
  policy, critic = ours.answers(made), ours.answers(longer)
  value = policy['ppo_plain/policy'] + (
      settings.PPO_PLAIN['value_coef'] * critic['ppo_plain/critic'])
  every = made.tokens > 0
  exchange.check('loss', value, ppo['loss'], every)
  exchange.check('gradient of log-probs', policy['ppo_plain/log_probs'],
                 ppo['loss/log_probs'], every)
  exchange.check('gradient of values', critic['ppo_plain/values'],
                 ppo['loss/values'], every)
