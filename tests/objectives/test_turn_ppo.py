"""PPO of whole turns: by hand, beside PPO of tokens, through failed hands."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.objectives import ppo, turn_ppo, turn_ppo_published
from rlft.ops import kl, masked, turns
from rlft.types import Experience, Outputs, Rollout
from tests import compiled

ppo, turn_ppo, turn_ppo_published = map(
    compiled.objective, (ppo, turn_ppo, turn_ppo_published))
KEYS = tuple(jax.random.split(jax.random.key(0), 8))  # inside jit, too
# Three hands: two turns with feedback between, one turn, three turns.
IDS = jnp.array([[-1, 0, 0, 0, -1, 1, 1, -1],
                 [-1, 0, 0, -1, -1, -1, -1, -1],
                 [-1, -1, 0, -1, 1, 1, 1, 2]])
MASK = IDS >= 0
STARTS = jax.jit(turns.starts)(IDS)


@jax.jit
def rollout_of(ids=IDS, **arrays):
  """Random floats, also off the mask, unless given."""
  names = ('rewards', 'log_probs', 'ref_log_probs', 'values', 'weights')
  drawn = {name: jax.random.normal(key, ids.shape)
           for name, key in zip(names, KEYS, strict=False)}
  drawn['weights'] = jnp.where(ids >= 0, jnp.abs(drawn['weights']), 0.)
  return Rollout(
      tokens=ids * 0, mask=ids >= 0, turn_ids=ids,
      prompt_ids=jnp.arange(ids.shape[0]), sampler_log_probs=ids * 0.0,
      truncated=jnp.zeros(ids.shape[0], bool), **drawn | arrays)


def outputs_of(log_probs, values=None):
  values = jnp.zeros_like(log_probs) if values is None else values
  return Outputs(log_probs, log_probs * 0 + 1.5, values, log_probs[..., None])


def moved(rollout, scale=0.05, key=KEYS[6]):
  """A policy and a critic that have left those of the rollout."""
  one, two = jax.random.split(key)
  shape = rollout.mask.shape
  return outputs_of(
      rollout.log_probs + scale * jax.random.normal(one, shape),
      rollout.values + scale * jax.random.normal(two, shape))


def permuted(tree, order):
  return jax.tree.map(lambda x: x[jnp.array(order)], tree)


# ---- by hand


def test_two_turns_of_three_tokens_by_hand():
  ids = jnp.array([[-1, 0, 0, -1, 1]])
  weights = jnp.array([[9., 0.5, 1., 9., 0.5]])
  old = jnp.array([[-9., -1., -2., -9., -3.]])
  # 0.5 * 0.2 - 1 * 0.3 = -0.2 and 0.5 * 0.4 = 0.2
  new = old + jnp.array([[5., 0.2, -0.3, 5., 0.4]])
  rollout = rollout_of(
      ids, weights=weights, log_probs=old, ref_log_probs=old,
      values=jnp.array([[7., 0.5, 7., 7., 0.2]]))
  gains = jnp.array([[0., 2., 2., 0., 3.]])
  returns = jnp.array([[0., 1., 1., 0., -1.]])
  outputs = outputs_of(new, jnp.array([[8., 0.7, 8., 8., 0.1]]))
  value, metrics = turn_ppo.loss(
      outputs, Experience(rollout, gains, returns))
  # the ratios are e^-0.2, inside as it is lost, and e^0.2, clipped at 1.1
  policy = -(np.exp(-0.2) * 2 + 1.1 * 3) / 2
  # values 0.5 -> 0.7, held at 0.6 (0.08); 0.2 -> 0.1 (0.605)
  critic = (0.5 * 0.4**2 + 0.5 * 1.1**2) / 2
  np.testing.assert_allclose(metrics['policy_loss'], policy, rtol=1e-5)
  np.testing.assert_allclose(metrics['value_loss'], critic, rtol=1e-5)
  np.testing.assert_allclose(value, policy + 0.5 * critic, rtol=1e-5)
  np.testing.assert_allclose(
      metrics['ratio_mean'], (np.exp(-0.2) + np.exp(0.2)) / 2, rtol=1e-5)
  np.testing.assert_allclose(metrics['ratio_max'], np.exp(0.2), rtol=1e-5)
  assert metrics['clip_fraction'] == metrics['value_clip_fraction'] == 0.5
  assert metrics['completion_tokens'] == 3
  per_token = np.mean([np.exp(d) - 1 - d for d in (0.2, -0.3, 0.4)])
  np.testing.assert_allclose(metrics['approx_kl'], per_token, rtol=1e-4)


def test_the_gradient_of_a_token_is_its_weight_in_the_turn():
  rollout = rollout_of()
  gains = jax.jit(turns.spread)(jax.random.normal(KEYS[5], IDS.shape), IDS)
  grad = jax.jit(jax.grad(lambda log_p: turn_ppo.loss(
      outputs_of(log_p), Experience(rollout, gains, gains), value_coef=0.)[0]))(
          rollout.log_probs)
  count = masked.count(STARTS)
  want = jnp.where(MASK, -rollout.weights * gains / count, 0.)
  np.testing.assert_allclose(grad, want, rtol=1e-5, atol=1e-7)
  assert not np.asarray(grad)[~MASK].any()


def test_only_the_first_token_of_a_turn_has_a_value():
  batch = turn_ppo.advantages(rollout_of())
  grad = jax.jit(jax.grad(lambda values: turn_ppo.loss(
      outputs_of(batch.rollout.log_probs, values), batch)[0]))(
          batch.rollout.values)
  np.testing.assert_array_equal(np.asarray(grad) != 0, STARTS)


def test_the_ratio_is_one_before_anything_has_moved():
  rollout = rollout_of()
  _, metrics = turn_ppo.loss(
      outputs_of(rollout.log_probs, rollout.values),
      turn_ppo.advantages(rollout))
  assert metrics['ratio_mean'] == metrics['ratio_max'] == 1.
  assert metrics['approx_kl'] == metrics['clip_fraction'] == 0.
  assert metrics['value_clip_fraction'] == 0.


def one_turn(log_ratio, gain, **kwargs):
  """(loss, gradient to the turn's log-prob): two tokens that weigh a half."""
  value, grad = one_turn_of(log_ratio, gain, tuple(kwargs.items()))
  return float(value), float(grad)


@functools.partial(jax.jit, static_argnums=2)
def one_turn_of(log_ratio, gain, options):
  ids = jnp.zeros((1, 2), jnp.int32)
  full = lambda x: jnp.full((1, 2), x)
  rollout = rollout_of(ids, weights=full(0.5), log_probs=full(-1.),
                       ref_log_probs=full(-1.), values=full(0.))
  return jax.value_and_grad(lambda x: turn_ppo.loss(
      outputs_of(full(-1.) + x), Experience(rollout, full(gain), full(0.)),
      **dict(options))[0])(log_ratio)


@pytest.mark.parametrize('ratio, gain, value, grad', [
    (1.05, 2., -2.1, -2.1), (1.2, 2., -2.2, 0.), (0.8, 2., -1.6, -1.6),
    (0.8, -2., 1.8, 0.), (9., -2., 18., 18.),
    (11., -2., 2.2, 0.), (11., 2., -2.2, 0.)])
def test_clip_and_guard_by_hand(ratio, gain, value, grad):
  """Above the guard the clipped term alone: not 11 * 2, nor 10 * 2."""
  np.testing.assert_allclose(
      one_turn(np.log(ratio), gain), (value, grad), rtol=1e-5)


def test_the_guard_keeps_an_overflow_out():
  assert one_turn(200., -2.) == pytest.approx((2.2, 0.))
  assert one_turn(3., -1., ratio_guard=None) == pytest.approx(
      (np.exp(3.), np.exp(3.)), rel=1e-5)
  with pytest.raises(ValueError, match=r'ratio_guard=1\.1 must be above'):
    one_turn(0., 1., ratio_guard=1.1)


# ---- every option has an effect


@pytest.mark.parametrize('change', [
    dict(clip=0.01), dict(value_clip=None), dict(value_coef=2.),
    dict(entropy_coef=0.1), dict(kl_coef=0.1), dict(ratio_guard=1.2)])
def test_an_option_changes_the_loss(change):
  batch = turn_ppo.advantages(rollout_of())
  outputs = moved(batch.rollout, 0.5)
  assert abs(turn_ppo.loss(outputs, batch, **change)[0]
             - turn_ppo.loss(outputs, batch)[0]) > 1e-4


@pytest.mark.parametrize('name', kl.ESTIMATORS)
def test_the_penalty_is_per_token_and_unweighted(name):
  batch = turn_ppo.advantages(rollout_of())
  outputs = moved(batch.rollout)
  with_it, without = (turn_ppo.loss(
      outputs, batch, kl_coef=c, kl_estimator=name)[0] for c in (0.3, 0.))
  want = 0.3 * masked.mean(kl.estimator(name)(
      outputs.log_probs, batch.rollout.ref_log_probs), MASK)
  np.testing.assert_allclose(with_it - without, want, rtol=1e-4)


def test_the_objective_of_the_paper_is_what_the_defaults_are():
  batch = turn_ppo.advantages(rollout_of())
  outputs = moved(batch.rollout)
  want = turn_ppo.loss(outputs, batch)
  got = turn_ppo.loss(
      outputs, batch, clip=0.1, value_clip=0.1, value_coef=0.5, kl_coef=0.,
      entropy_coef=0., ratio_guard=10.)
  assert got[0] == want[0]
  given = turn_ppo.advantages(
      rollout_of(), discount=0.9, lam=0.95, whiten=True)
  np.testing.assert_array_equal(given.advantages, batch.advantages)


# ---- beside PPO of tokens


def test_turns_of_one_token_are_tokens():
  ids = jnp.where(MASK, jnp.cumsum(MASK, axis=1) - 1, -1)
  rollout = rollout_of(ids, weights=MASK.astype(float))
  settings = dict(discount=0.9, lam=0.8)
  for whiten in (True, False):
    one, other = (part.advantages(rollout, whiten=whiten, **settings)
                  for part in (turn_ppo, ppo))
    np.testing.assert_allclose(one.advantages, other.advantages, atol=1e-6)
    np.testing.assert_allclose(one.returns, other.returns, atol=1e-6)
  outputs = moved(rollout)
  settings = dict(clip=0.03, value_clip=0.03, kl_coef=0.1, entropy_coef=0.1)
  one, other = (jax.jit(jax.value_and_grad(
      lambda out, part=part: part.loss(out, other, **settings),
      has_aux=True))(outputs) for part in (turn_ppo, ppo))
  assert 0 < other[0][1]['clip_fraction'] < 1
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-5, atol=1e-7), one, other)


# ---- credit


def turns_of(rollout):
  """Rewards and first values of each row's turns, as lists."""
  found = []
  for ids, rewards, values in zip(
      np.asarray(rollout.turn_ids), np.asarray(rollout.rewards, float),
      np.asarray(rollout.values, float), strict=True):
    places = [np.flatnonzero(ids == k) for k in range(ids.max() + 1)]
    found.append([(rewards[p].sum(), values[p[0]]) for p in places])
  return found


def looped(steps, ends, discount, lam):
  """The published `compute_returns`, without its last bootstrap."""
  advantage, next_value, found = 0., 0., []
  for (reward, value), end in zip(steps[::-1], ends[::-1], strict=True):
    more = 0. if end else 1.
    delta = reward + discount * next_value * more - value
    advantage = delta + discount * lam * more * advantage
    next_value = value
    found.append(advantage)
  return found[::-1]


def on_tokens(rows, ids=IDS):
  """Numbers of turns, listed by row, on every token of the turn."""
  full = np.zeros(ids.shape)
  for row, numbers in enumerate(rows):
    for turn, number in enumerate(numbers):
      full[row][np.asarray(ids[row]) == turn] = number
  return full


def test_a_rows_turns_are_a_trajectory():
  rollout = rollout_of()
  got = turn_ppo.advantages(rollout, discount=0.9, lam=0.7, whiten=False)
  rows = turns_of(rollout)
  want = [looped(row, [False] * len(row), 0.9, 0.7) for row in rows]
  np.testing.assert_allclose(got.advantages, on_tokens(want), atol=1e-5)
  returns = [[a + v for a, (_, v) in zip(one, row, strict=True)]
             for one, row in zip(want, rows, strict=True)]
  np.testing.assert_allclose(got.returns, on_tokens(returns), atol=1e-5)


def test_whitening_is_over_turns_not_tokens():
  got = turn_ppo.advantages(rollout_of())
  plain = turn_ppo.advantages(rollout_of(), whiten=False)
  chosen = np.asarray(got.advantages)[np.asarray(STARTS)]
  np.testing.assert_allclose([chosen.mean(), chosen.var()], [0, 1], atol=1e-5)
  np.testing.assert_array_equal(got.returns, plain.returns)
  assert abs(np.asarray(plain.advantages)[np.asarray(STARTS)].mean()) > 0.1


def test_the_order_of_rows_does_not_matter_where_hands_end():
  rollout, order = rollout_of(), [2, 0, 1]
  want = permuted(turn_ppo.advantages(rollout), order)
  got = turn_ppo.advantages(permuted(rollout, order))
  np.testing.assert_allclose(got.advantages, want.advantages, atol=1e-6)
  one, other = (turn_ppo.loss(moved(rollout), turn_ppo.advantages(rollout)),
                turn_ppo.loss(permuted(moved(rollout), order), got))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-5, atol=1e-6), one, other)


@pytest.mark.parametrize('part, settings', [
    (turn_ppo, dict(whiten=False)),
    (ppo, dict(discount=0.9, lam=0.95, whiten=False))])
@pytest.mark.parametrize('row', range(3))
def test_credit_never_leaks_between_hands_nor_to_later_turns(
    part, settings, row):
  """What is paid and thought of one hand changes no number of another.

  And what its first turn is paid changes no later turn of its own.
  """
  rollout = rollout_of()
  before = part.advantages(rollout, **settings)
  others = np.arange(len(IDS)) != row
  for name in ('rewards', 'values'):
    array = getattr(rollout, name)
    after = part.advantages(
        rollout._replace(**{name: array.at[row].add(3.)}), **settings)
    for old, new in zip(before[1:], after[1:], strict=True):
      np.testing.assert_array_equal(old[others], new[others])
    assert (before.advantages[row] != after.advantages[row]).any()
  # what the first turn of a hand is paid concerns that turn alone
  first = np.asarray(IDS[row] == 0)
  at = int(np.flatnonzero(first)[-1])
  paid = part.advantages(rollout._replace(
      rewards=rollout.rewards.at[row, at].add(3.)), **settings)
  moved = np.asarray(paid.advantages != before.advantages)
  assert (moved == (first & (np.arange(len(IDS)) == row)[:, None])).all()


# ---- the published returns


def paid(*rewards):
  """A rollout whose turns are paid these, in order."""
  numbers = iter(rewards)
  full = np.zeros(IDS.shape)
  for row, column in zip(*np.nonzero(np.asarray(STARTS)), strict=True):
    last = np.flatnonzero(np.asarray(IDS[row]) == int(IDS[row, column]))[-1]
    full[row, last] = next(numbers)
  return rollout_of(rewards=jnp.asarray(full, jnp.float32))


@pytest.mark.parametrize('rewards', [
    (-1., 5., 5., -1., -2., 5.),  # every hand is solved
    (-1., -2., -1., -2., -1., -2.),  # none is
    (-1., -2., 5., -2., -1., -2.)])
def test_advantages_run_through_failed_hands(rewards):
  rollout = paid(*rewards)
  got = turn_ppo_published.advantages(rollout)
  rows = turns_of(rollout)
  steps = [step for row in rows for step in row]
  gains = np.array(looped(steps, [r == 5. for r in rewards], 0.9, 0.95))
  returns = gains + [value for _, value in steps]
  white = (gains - gains.mean()) / (gains.std(ddof=1) + 1e-5)
  split = lambda flat: np.split(flat, np.cumsum([len(r) for r in rows])[:-1])
  np.testing.assert_allclose(
      got.advantages, on_tokens(split(white)), atol=1e-5)
  np.testing.assert_allclose(got.returns, on_tokens(split(returns)), atol=1e-5)


def test_the_leak_is_from_the_next_hand_into_a_failed_one():
  """And nowhere else: the returns of the first hand, as the second changes."""
  def returns(rewards):
    return turn_ppo_published.advantages(paid(*rewards)).returns[0]
  failed, solved = (-1., -2.), (-1., 5.)
  for first, leaks in ((failed, True), (solved, False)):
    one, other = (returns((*first, second, -1., -1., -1.))
                  for second in (5., -1.))
    assert bool((one != other).any()) == leaks
  corrected = [turn_ppo.advantages(
      paid(*failed, second, -1., -1., -1.), whiten=False).returns[0]
      for second in (5., -1.)]
  np.testing.assert_array_equal(*corrected)


def test_where_every_hand_is_solved_only_whitening_differs():
  rollout = paid(-1., 5., 5., -1., -2., 5.)
  published, corrected = (part.advantages(rollout) for part in (
      turn_ppo_published, turn_ppo))
  np.testing.assert_allclose(published.returns, corrected.returns, atol=1e-5)
  np.testing.assert_allclose(  # n - 1 of 6 turns
      published.advantages, corrected.advantages * np.sqrt(5 / 6), atol=1e-4)


def test_what_solves_a_hand_is_in_units_of_the_rollout():
  scaled = paid(-0.2, -0.4, 1., -0.2, -0.4, -0.2)
  one, other = (turn_ppo_published.advantages(scaled, solved=solved).returns
                for solved in (1., 5.))
  assert (one[1] != other[1]).any() and (one[2] == other[2]).all()
