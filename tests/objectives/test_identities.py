"""What the objectives without a critic are equal to."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft import check, parts
from rlft.experience import rollouts
from rlft.objectives import (
  dapo,
  dr_grpo,
  expert_iteration,
  grpo,
  gspo,
  one_zero_reinforce,
  reinforce_pp,
  rloo,
  sft,
)
from rlft.types import Batch
from tests import tiny
from tests.objectives import bigram
from tests.objectives.bigram import IDS, MASK, PARAMS, REWARDS, B, T

pytestmark = pytest.mark.slow  # a program for each case

KEEP = np.asarray(MASK)
LENGTHS = KEEP.sum(1)
ROWS = (LENGTHS > 0).sum()
RETURNS = np.where(KEEP, REWARDS, 0.).sum(1).astype(np.float64)
OPEN = dict(clip=1e6, ratio_guard=None)
SIDES = dict(clip_low=1e6, clip_high=1e6, ratio_guard=None)
GROUPED = [grpo, dr_grpo, rloo, gspo, dapo]


def compared(how):
  """A number for each row from its group's returns, by a loop."""
  found = np.zeros(B)
  for i in range(B):
    same = [j for j in range(B) if IDS[j] == IDS[i] and LENGTHS[j]]
    if LENGTHS[i]:
      found[i] = how(RETURNS[i], RETURNS[same], RETURNS[
          [j for j in same if j != i]])
  return found[:, None]


CENTRED = compared(lambda own, all, others: own - all.mean())
STANDARD = compared(lambda own, all, others: (own - all.mean()) / all.std())
OTHERS = compared(lambda own, all, others: own - others.mean())
TO_COME = np.where(KEEP, REWARDS, 0.)[:, ::-1].cumsum(1)[:, ::-1]
EACH = np.maximum(LENGTHS, 1)[:, None]
# What each objective gives a token's log-prob, by its paper.
WEIGHTS = {
    grpo: (STANDARD / EACH / ROWS, OPEN | dict(kl_coef=0.), {}),
    dr_grpo: (CENTRED / T / ROWS, OPEN, {}),
    rloo: (OTHERS / ROWS, dict(ratio_guard=None), {}),
    gspo: (STANDARD / EACH / ROWS, SIDES, {}),
    dapo: (STANDARD / KEEP.sum(), SIDES, {}),
    reinforce_pp: (TO_COME / EACH / ROWS, OPEN,
                   dict(whiten=False, kl_reward_coef=0.)),
    one_zero_reinforce: (
        (RETURNS[:, None] >= 0.5) / ROWS, {}, dict(solved=0.5)),
    expert_iteration: (
        (RETURNS[:, None] >= 0.5) / LENGTHS[RETURNS >= 0.5].sum(), {},
        dict(solved=0.5)),
}
NAMES = [m.__name__.rpartition('.')[2] for m in WEIGHTS]


def test_the_example_tells_rows_and_groups_apart():
  assert len(set(RETURNS[LENGTHS > 0])) == ROWS == 5
  assert (RETURNS >= 0.5).any() and (RETURNS[LENGTHS > 0] < 0.5).any()
  assert len(set(LENGTHS)) > 3


@pytest.mark.parametrize('module', WEIGHTS, ids=NAMES)
def test_on_policy_gradient_is_the_policy_gradient(module):
  weights, hyper, credit = WEIGHTS[module]
  batch = module.advantages(bigram.rollout(), **credit)
  want = bigram.reinforce(np.broadcast_to(weights, (B, T)))
  assert np.abs(want).max() > 0.01
  got = bigram.gradient(module.loss, batch, **hyper)
  np.testing.assert_allclose(got, want, atol=2e-6)
  # at ratio 1 the clips and the guard of the paper change nothing
  own = {'kl_coef': 0.} if 'kl_coef' in hyper else {}
  got = bigram.gradient(module.loss, batch, **own)
  np.testing.assert_allclose(got, want, atol=2e-6)


def test_gspo_off_policy_is_its_definition():
  """Ratio of a row = exp of the mean over its tokens of the log-ratio."""
  rollout = bigram.rollout(behaviour=0.5)
  own = bigram.forward(PARAMS, rollout.tokens)
  batch = gspo.advantages(rollout)
  low, high, terms, clipped = 0.1, 0.15, [], 0
  for i in np.flatnonzero(LENGTHS):
    moved = np.asarray(own.log_probs - rollout.log_probs)[i, KEEP[i]]
    s, gain = np.exp(moved.mean()), STANDARD[i, 0]
    terms.append(min(s * gain, np.clip(s, 1 - low, 1 + high) * gain))
    decides = s > 1 + high if gain > 0 else s < 1 - low
    clipped += decides * LENGTHS[i]
  value, metrics = gspo.loss(own, batch, clip_low=low, clip_high=high)
  np.testing.assert_allclose(value, -np.mean(terms), rtol=1e-4)
  np.testing.assert_allclose(
      metrics['clip_fraction'], clipped / KEEP.sum(), rtol=1e-5)
  assert 0 < clipped < KEEP.sum()
  # every token of a row moves it alike: s / n of its score
  grad = jax.grad(lambda x: gspo.loss(
      own._replace(log_probs=x), batch, **SIDES)[0])(own.log_probs)
  row = np.asarray(grad)[0, KEEP[0]]
  np.testing.assert_allclose(row, row[0], rtol=1e-5)


def test_rloo_off_policy_has_the_ratio_of_the_row():
  rollout = bigram.rollout(behaviour=0.2)
  own = bigram.forward(PARAMS, rollout.tokens)
  moved = np.where(KEEP, own.log_probs - rollout.log_probs, 0.).sum(1)
  gains = np.exp(moved) * OTHERS[:, 0]
  value, _ = rloo.loss(own, rloo.advantages(rollout), ratio_guard=None)
  np.testing.assert_allclose(value, -gains.sum() / ROWS, rtol=1e-4)
  held = np.clip(np.exp(moved), 0.9, 1.1) * OTHERS[:, 0]
  value, _ = rloo.loss(own, rloo.advantages(rollout), clip=0.1)
  np.testing.assert_allclose(
      value, -np.minimum(gains, held).sum() / ROWS, rtol=1e-4)


def test_clips_are_of_tokens_and_apart_in_dapo():
  rollout = bigram.rollout(behaviour=0.5)
  own = bigram.forward(PARAMS, rollout.tokens)
  ratio = np.exp(np.asarray(own.log_probs - rollout.log_probs))

  def mean(gains, low, high):
    held = np.clip(ratio, 1 - low, 1 + high)
    gained = np.minimum(ratio * gains, held * gains)
    return -gained[KEEP].mean()

  value, _ = dapo.loss(own, dapo.advantages(rollout))
  np.testing.assert_allclose(value, mean(STANDARD, 0.2, 0.28), rtol=1e-4)
  value, _ = dr_grpo.loss(own, dr_grpo.advantages(rollout), clip=0.1)
  np.testing.assert_allclose(
      value, mean(CENTRED, 0.1, 0.1) * KEEP.sum() / ROWS / T, rtol=1e-4)


# ---- rewards


def test_rewards_are_of_the_turn_in_which_they_are_paid():
  """REINFORCE++: no token is paid for a turn before its own."""
  rewards = jnp.zeros((B, T)).at[2, 2].set(1.).at[2, 5].set(0.5)
  got = reinforce_pp.advantages(
      bigram.rollout(rewards=rewards), whiten=False, kl_reward_coef=0.)
  np.testing.assert_allclose(
      got.advantages[2], [0., 1.5, 1.5, 0., 0.5, 0.5, 0.])
  assert not np.asarray(got.advantages)[[0, 1, 4, 5]].any()
  # and for an action that is the row: its sum, wherever it stands
  got = dr_grpo.advantages(bigram.rollout(rewards=rewards))
  np.testing.assert_allclose(got.returns[2], 1.5 * KEEP[2])
  np.testing.assert_allclose(got.advantages[::4], -0.5 * KEEP[::4])
  np.testing.assert_allclose(got.advantages[2], KEEP[2], rtol=1e-6)


@pytest.mark.parametrize('module', GROUPED, ids=lambda m: m.__name__)
@pytest.mark.parametrize('reward', [0.5, 0.1, -0.3, 1 / 3])
def test_equal_rewards_of_a_group_teach_exactly_nothing(module, reward):
  last = bigram.MASK & ~jnp.pad(bigram.MASK[:, 1:], ((0, 0), (0, 1)))
  ends = jnp.where(jnp.cumsum(last, 1) == last.sum(1)[:, None], last, False)
  batch = jax.jit(module.advantages)(
      bigram.rollout(rewards=jnp.where(ends, reward, 0.)))
  np.testing.assert_allclose(batch.returns, reward * KEEP, rtol=1e-6)
  assert not np.asarray(batch.advantages).any()
  off = {} if module in (rloo,) else {'kl_coef': 0.}
  assert not np.asarray(bigram.gradient(module.loss, batch, **off)).any()


def test_a_constant_reward_of_a_half_trains_as_a_half_without_a_baseline():
  """Not as 0, as where rewards become whole numbers like the tokens."""
  half = jnp.zeros((B, T)).at[jnp.arange(B), T - 1].set(0.5)
  mask = jnp.ones((B, T), bool).at[:, 0].set(False)
  batch = reinforce_pp.advantages(
      bigram.rollout(rewards=half, mask=mask), whiten=False, kl_reward_coef=0.)
  want = jax.grad(lambda p: -0.5 * bigram.forward(
      p, batch.tokens).log_probs[:, 1:].mean())(PARAMS)['logits']
  np.testing.assert_allclose(
      bigram.gradient(reinforce_pp.loss, batch), want, atol=1e-6)
  assert np.abs(want).max() > 0.01
  # all the same: standardised over the batch, nothing
  batch = reinforce_pp.advantages(
      bigram.rollout(rewards=half, mask=mask), kl_reward_coef=0.)
  assert not np.asarray(batch.advantages).any()


def test_reinforce_pp_is_standardised_over_tokens_with_the_kl_in_it():
  rollout = bigram.rollout()
  got = reinforce_pp.advantages(rollout, kl_reward_coef=0.1)
  cost = 0.1 * np.asarray(rollout.log_probs - rollout.ref_log_probs)
  paid = np.where(KEEP, np.asarray(REWARDS) - cost, 0.)
  want = paid[:, ::-1].cumsum(1)[:, ::-1][KEEP]
  np.testing.assert_allclose(
      got.advantages[MASK], (want - want.mean()) / want.std(), atol=1e-4)
  np.testing.assert_allclose(got.returns[MASK], want, atol=1e-5)


def test_rloo_pays_the_kl_of_the_whole_row():
  rollout = bigram.rollout()
  got = rloo.advantages(rollout, kl_reward_coef=0.1)
  cost = np.where(KEEP, rollout.log_probs - rollout.ref_log_probs, 0.).sum(1)
  np.testing.assert_allclose(
      got.returns, (RETURNS - 0.1 * cost)[:, None] * KEEP, atol=1e-5)


def test_dapo_compares_what_is_left_after_the_punishment():
  rollout = bigram.rollout(rewards=jnp.zeros((B, T)))
  got = dapo.advantages(
      rollout, overlong_limit=6, overlong_margin=3, overlong_penalty=0.5)
  np.testing.assert_allclose(
      got.returns[:, 1:].sum(1) / EACH[:, 0],
      -0.5 * np.clip((LENGTHS - 3) / 3, 0., 1.), atol=1e-6)
  assert not np.asarray(got.rollout.rewards).any()


# ---- expert iteration


def test_expert_iteration_is_sft_on_what_was_right():
  rollout = bigram.rollout()
  batch = expert_iteration.advantages(rollout, solved=0.5)
  right = MASK & (RETURNS >= 0.5)[:, None]
  outputs = bigram.forward(PARAMS, rollout.tokens)
  value, metrics = expert_iteration.loss(outputs, batch)
  want, _ = sft.loss(outputs, Batch(rollout.tokens, right))
  np.testing.assert_allclose(value, want, rtol=1e-6)
  assert metrics['correct_tokens'] == metrics['loss_weight'] == right.sum()
  nothing = expert_iteration.advantages(rollout, solved=99.)
  assert not np.asarray(bigram.gradient(expert_iteration.loss, nothing)).any()


def test_copies_of_a_right_completion_share_its_weight():
  """Rows 0 and 4 become the same; a batch with one of them trains the same."""
  doubled = jax.tree.map(
      lambda x: x.at[4].set(x[0]), bigram.rollout())
  keep = np.array([0, 1, 2, 3, 5])
  once = jax.tree.map(lambda x: x[keep], doubled)
  grads = [bigram.gradient(
      expert_iteration.loss, expert_iteration.advantages(r, solved=-9.))
      for r in (doubled, once)]
  np.testing.assert_allclose(*grads, atol=1e-6)


# ---- KL and the critic


@pytest.mark.parametrize('temperature', [0.5, 1.0, 1.7])
def test_kl_is_exactly_zero_at_identical_weights(temperature):
  """Policy and reference divide by the same temperature."""
  model, params = tiny.model(), tiny.initialised()
  tokens = jnp.asarray(
      np.random.default_rng(0).integers(1, model.vocabulary, (4, T)), jnp.int32)
  log_p, ref, _ = rollouts.scorer(model, temperature)(params, params, tokens)
  np.testing.assert_array_equal(log_p, ref)
  mask = jnp.ones((4, T), bool).at[:, 0].set(False)
  rollout = jax.tree.map(lambda x: x[:4], bigram.rollout())._replace(
      tokens=tokens, mask=mask, log_probs=log_p, ref_log_probs=ref)
  outputs = jax.tree.map(lambda x: x[:4], bigram.forward(
      PARAMS, bigram.TOKENS))._replace(log_probs=log_p)
  for name in ('k1', 'k2', 'k3'):
    np.testing.assert_array_equal(
        rloo.advantages(rollout, kl_reward_coef=9., kl_estimator=name).returns,
        rloo.advantages(rollout).returns)
    batch = grpo.advantages(rollout)
    without, _ = grpo.loss(outputs, batch, kl_coef=0.)
    value, metrics = grpo.loss(outputs, batch, kl_coef=9., kl_estimator=name)
    assert value == without and metrics['kl'] == 0.


@pytest.mark.parametrize('name', NAMES)
def test_none_reads_a_critic(name):
  module = parts.load('objectives', name)
  assert not check.rehearse(module.loss, module.advantages)[0]
