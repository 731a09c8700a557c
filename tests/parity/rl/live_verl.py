"""rlft's algebra of RL beside verl's, on thousands of random batches.

    make parity         # 2,000 batches
    make parity-full    # 20,000

PARITY_SEED repeats a run. Where a definition differs (docs/rl_details.md), what
is tested is that ours is theirs after the transformation that is stated there.
"""
import os
import random

import numpy as np
import pytest

from rlft.rewards import kl as kl_reward
from tests.parity.rl import batches, exchange, ours, settings

SEED = int(os.environ.get('PARITY_SEED', random.SystemRandom().randrange(
    2**31)))
COUNT = int(os.environ.get('PARITY_BATCHES', 2000))
FEW = 200  # batches of what is asked besides
pytestmark = pytest.mark.xdist_group('verl')

ON_MASK = ('gae', 'gae/returns', 'reinforce_pp/returns', 'rewards')
LOSSES = (
    'dapo', 'dr_grpo', 'reinforce_pp', 'gspo', 'gspo_wide',
    'one_zero_reinforce', *(f'grpo/{name}' for name in settings.AGGREGATIONS))
SAME = (
    *ON_MASK, 'rloo/advantages',
    *(f'kl/{name}{of}' for name in settings.ESTIMATORS
      for of in ('', '/log_probs')),
    *(f'{name}{of}' for name in settings.AGGREGATIONS for of in ('', '/gains')),
    *(f'{name}{of}' for name in LOSSES for of in ('', '/log_probs')),
    *(f'ppo{of}' for of in ('', '/log_probs', '/values', '/entropy')))


@pytest.fixture(scope='module')
def drawn():
  print(f'PARITY_SEED={SEED}')
  return batches.draw(SEED, COUNT)


@pytest.fixture(scope='module')
def own(drawn):
  return ours.answers(drawn)


@pytest.fixture(scope='module')
def asked(drawn):
  """Everything that verl is asked, by one call; `drawn` is the first."""
  few = batches.Batches(*(x[:FEW] for x in drawn))
  rewards = _lasts(few) * few.entropy[:, :1, :1]  # off the grid: means round
  return {
      'drawn': drawn._replace(prompt_ids=batches.apart(drawn)),
      'grouped': few,
      'equal': few._replace(rewards=rewards, prompt_ids=batches.apart(few)),
      'far': few._replace(ref_log_probs=few.new_log_probs + 3)}


@pytest.fixture(scope='module')
def said(asked, tmp_path_factory):
  whole = batches.Batches(*map(np.concatenate, zip(
      *asked.values(), strict=True)))
  found = exchange.ask('verl_side', 'VERL_PYTHON',
                       tmp_path_factory.mktemp('verl'), whole._asdict())
  ends = np.cumsum([len(x.mask) for x in asked.values()])[:-1]
  parts = {name: np.split(x, ends) for name, x in found.items()}
  return {name: {key: x[i] for key, x in parts.items()}
          for i, name in enumerate(asked)}


@pytest.fixture(scope='module')
def verl(said):
  return said['drawn']


@pytest.mark.parametrize('name', SAME)
def test_is_verls(name, drawn, own, verl):
  least = 2 if name in ON_MASK else 1  # verl whitens along, which takes two
  exchange.check(name, own[name], verl[name], drawn.tokens >= least)


def test_draws_have_every_edge(drawn):
  """What the claim of this file is about."""
  rows = drawn.mask.sum(2)
  size = np.where(drawn.mask.any(2), batches.sizes(drawn), 0)
  first = drawn.mask.argmax(2)[:, :, None]
  after = batches.T - drawn.mask[:, :, ::-1].argmax(2)[:, :, None]
  place = np.arange(batches.T)
  holes = ~drawn.mask & (place >= first) & (place < after) & (
      rows > 0)[:, :, None]
  log_ratio = (drawn.new_log_probs - drawn.log_probs)[drawn.mask]
  for edge in (rows == 0, rows == 1, size == 1, size == 6,
               holes.any(2), drawn.tokens == 0, drawn.tokens == 1,
               log_ratio > np.log(10), log_ratio < np.log(0.8)):
    assert edge.sum() >= 5
  returns = np.where(rows > 0, drawn.rewards.sum(2), np.nan)
  ids = batches.apart(drawn)
  same = ids[:, :, None] == ids[:, None]
  equal = np.isclose(returns[:, :, None], returns[:, None]) | ~same
  assert (equal.all(2) & (size > 2)).sum() >= 5


# what differs

def test_nothing_counts(drawn, own, verl):
  """verl divides by the number of tokens, or rows: 0 / 0. Ours is 0."""
  empty = drawn.tokens == 0
  for name in (*settings.AGGREGATIONS, *LOSSES, 'ppo'):
    assert np.isnan(verl[name][empty]).all(), name
    assert (own[name][empty] == 0).all(), name


@pytest.mark.parametrize('name, raw', [
    ('gae/whitened', 'gae'), ('whiten', None),
    ('reinforce_pp/advantages', 'reinforce_pp/returns')])
def test_whitening_divides_by_one_less(name, raw, drawn, own, verl):
  """The deviation is by n in ours, by n - 1 in verl's; epsilon is the same."""
  x = own[raw] if raw else drawn.gains
  n = np.maximum(drawn.tokens, 2)[:, None, None]
  total = lambda x: (x * drawn.mask).sum((1, 2), dtype=float, keepdims=True)
  variance = total(np.square(x - total(x) / n)) / n
  scaled = own[name] * np.sqrt(
      (variance + 1e-8) / (variance * n / (n - 1) + 1e-8))
  clear = variance.ravel() > 1e-2  # not of numbers that rounding tells apart
  exchange.check(
      name, scaled, verl[f'verl:{name}'], (drawn.tokens >= 2) & clear)


@pytest.mark.parametrize('theirs', ['verl:grpo/advantages',
                                    'verl:grpo_vectorized/advantages'])
def test_groups_are_divided_by_one_less(theirs, drawn, own, verl):
  """The deviation is by n in ours, by n - 1 in verl's; of one row it is 1 and
  the mean 0 there, so that the advantage is the return; ours is 0."""
  size = batches.sizes(drawn)[:, :, None]
  scaled = own['grpo/advantages'] * np.sqrt((size - 1) / size)
  alone = _alone(drawn)
  assert not scaled[alone].any()
  exchange.check(theirs, scaled + alone * drawn.rewards.sum(2)[:, :, None],
                 verl[theirs], drawn.tokens > 0)


@pytest.mark.parametrize('name', ['dr_grpo', 'rloo'])
def test_a_group_of_one_keeps_its_return(name, drawn, own, verl):
  """In verl, which subtracts nothing then; ours is 0."""
  alone = _alone(drawn)
  found = own[f'{name}/advantages']
  assert not found[alone].any()
  exchange.check(name, found + alone * drawn.rewards.sum(2)[:, :, None],
                 verl[f'verl:{name}/advantages'], drawn.tokens > 0)


def test_equal_returns_of_a_group_are_exactly_nothing(asked, said):
  """A mean rounds: verl divides by epsilon what is left."""
  found = ours.answers(asked['equal'])['grpo/advantages']
  theirs = np.where(
      _alone(asked['equal']), 0, said['equal']['verl:grpo/advantages'])
  assert not found.any()
  assert 0 < abs(theirs).max() < 1


def test_a_row_without_tokens_is_in_its_group_in_verl(asked, said):
  """With a return of 0; as a prompt of its own it is in none, as in ours."""
  few = asked['grouped']
  found = ours.answers(batches.counted(few))['rloo/advantages'] * few.mask
  exchange.check('rloo of all rows', found, said['grouped']['rloo/advantages'],
                 few.tokens >= 0)
  apart = said['drawn']['rloo/advantages'][:len(found)]
  assert (exchange.gaps(found, apart) > 0.1).any()


def test_sums(drawn, own, verl):
  """verl has sums as well; ours are its means, which they are multiples of."""
  tokens = drawn.tokens
  for of in ('', '/gains'):
    shape = (-1,) if not of else (-1, 1, 1)
    exchange.check(
        'token_sum', own[f'token_mean{of}'] * tokens.reshape(shape),
        verl[f'verl:token_sum{of}'], tokens > 0)
    exchange.check(
        'row_sum', own[f'constant_length{of}'] * batches.T,
        verl[f'verl:row_sum{of}'], tokens > 0)


def test_k3_plus_is_k3_with_the_gradient_of_k2(own, verl, drawn):
  every = drawn.tokens >= 0
  exchange.check('k3+', own['kl/k3'], verl['verl:kl/k3+'], every)
  exchange.check('k3+ gradient', own['kl/k2/log_probs'],
                 verl['verl:kl/k3+/log_probs'], every)


def test_the_policy_gradient_of_rloo_is_reinforce(drawn, own, verl):
  """verl has no ratio of a row: on the policy's own samples, where it is 1,
  gradients are those of log-probabilities, summed over rows."""
  exchange.check('rloo/on_policy/log_probs', own['rloo/on_policy/log_probs'],
                 verl['verl:reinforce/log_probs'], drawn.tokens > 0)


def test_verl_holds_k3(asked, said):
  """At 10, without a gradient from there on; ours goes on."""
  far = asked['far']  # k3 is e^3 - 4 = 16.1
  found, theirs = ours.answers(far), said['far']
  every = far.tokens >= 0
  exchange.check('k3', np.minimum(found['kl/k3'], 10), theirs['kl/k3'], every)
  assert not theirs['kl/k3/log_probs'].any()
  exchange.check('gradient of k3', found['kl/k3/log_probs'],
                 (1 - np.exp(3)) * far.mask, every)


def test_a_coefficient_that_follows_the_kl(drawn, verl):
  want = [kl_reward.adapted(
      settings.ADAPTED['coef'], float(measured), rows=batches.B,
      target=settings.ADAPTED['target'], horizon=settings.ADAPTED['horizon'])
      for measured in drawn.entropy[:, 0, 0]]
  np.testing.assert_allclose(verl['adapted'], want, rtol=1e-6)
  assert len(set(np.round(want, 6))) > 10


def _alone(drawn: batches.Batches) -> np.ndarray:
  """Where the only row of a prompt counts."""
  return drawn.mask & (batches.sizes(drawn) == 1)[:, :, None]


def _lasts(drawn: batches.Batches) -> np.ndarray:
  """True at the last token of each row that counts."""
  return drawn.mask & (
      np.cumsum(drawn.mask[:, :, ::-1], 2)[:, :, ::-1] == 1)
