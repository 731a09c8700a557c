"""Adapters: one function merged or not, and nothing else is trained."""
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft import binding, policy
from rlft.adapters import lora, value_head
from rlft.objectives import ppo, sft
from rlft.ops import modules, trees
from rlft.training import steps
from rlft.types import Batch, Experience, Rollout, TrainState
from tests.adapters import families
from tests.adapters.families import FAMILIES, TOKENS

KEY = jax.random.key(4)
TX = binding.build_optimizer(num_steps=9, learning_rate=1e-2)


def adapted(family, select='kernel$', noise=0.1, **options):
  """Adapters of rank 3, and a B that is not 0."""
  params = lora.attach(
      families.params(family), KEY, **dict(rank=3, select=select) | options)
  return {**params, 'lora': families.moved(params['lora'], noise)}


def test_an_adapted_map_by_hand():
  """x = 1, 2; W = 1; A = 1, 1; B = 1, -1; alpha / rank = 3: xA = 3."""
  params = lora.attach(
      {'policy': {'head': {'kernel': jnp.eye(2)}}}, KEY, rank=1, alpha=3.0,
      select='head')
  params['lora'] = {'head': {
      'a': jnp.ones((2, 1)), 'b': jnp.array([[1.0, -1.0]])}}
  read = lora.variables(params)
  dense = modules.Dense(2, jnp.float32)
  got = dense.apply({k: v['head'] for k, v in read.items()},
                    jnp.array([1.0, 2.0]))
  assert got.tolist() == [1 + 9, 2 - 9]
  whole = lora.merge(params)
  assert set(whole) == {'policy'}
  assert whole['policy']['head']['kernel'].tolist() == [[4, -3], [3, -2]]


def test_alpha_and_rank_scale_and_the_default_is_every_map_of_the_blocks():
  params = families.params('qwen2')
  found = lora.attach(params, KEY, rank=4, alpha=6.0)
  paths = trees.named(found['lora'])
  assert found['frozen']['scale'] == 1.5
  assert sorted(paths) == sorted(
      path.replace('kernel', name)
      for path in trees.matrices(params['policy']) for name in 'ab')
  assert paths['layers/mlp/up/a'].shape == (2, 32, 4)
  assert paths['layers/mlp/up/b'].shape == (2, 4, 64)
  assert not any(x.any() for path, x in paths.items() if path[-1] == 'b')
  one = lora.attach(params, KEY, rank=4, select='query/kernel')
  assert set(one['lora']['layers']) == {'attention'}
  assert lora.attach(params, KEY, rank=0) is params
  assert lora.merge(params) is params


def test_a_has_the_variance_of_the_papers_code_and_layers_are_drawn_apart():
  """1 / 3M over 2 x 3,000 x 20 draws: within 4 deviations of 0.4 %."""
  kernels = {k: {'kernel': jnp.zeros((2, 3000, 30))} for k in ('up', 'gate')}
  tree = lora.attach({'policy': {'layers': kernels}}, KEY, rank=20)['lora']
  up, gate = (np.asarray(tree['layers'][k]['a']) for k in ('up', 'gate'))
  for a in (up, gate):
    assert a.var() * 9000 == pytest.approx(1, abs=0.016)
  for other in (gate[0], up[1]):
    assert abs(np.corrcoef(up[0].ravel(), other.ravel())[0, 1]) < 0.02


SCORE = jax.jit(policy.forward, static_argnums=0)
WEIGHT = jnp.arange(12.0).reshape(2, 6)


@functools.cache
def measured(family):
  """(log-probs, the adapters' gradient), applied as they are and merged."""
  params = adapted(family)

  def both(form):
    def score(adapters):
      out = policy.forward(
          families.model(family), form({**params, 'lora': adapters}), TOKENS)
      return (out.log_probs * WEIGHT).sum(), out.log_probs

    (_, log_probs), slope = jax.jit(jax.value_and_grad(
        score, has_aux=True))(params['lora'])
    return np.asarray(log_probs), trees.named(slope)

  return both(lambda params: params), both(lora.merge)


def test_new_adapters_change_nothing():
  model, base = families.model('qwen2'), families.params('qwen2')
  fresh = lora.attach(base, KEY, rank=3, select='kernel$')
  want, got = (SCORE(model, p, TOKENS).log_probs for p in (base, fresh))
  np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize('family', FAMILIES)
def test_merged_adapters_are_the_same_function(family):
  (beside, _), (merged, _) = measured(family)
  np.testing.assert_allclose(beside, merged, atol=1e-5)
  base = SCORE(families.model(family), families.params(family), TOKENS)
  assert np.abs(beside - base.log_probs).max() > 0.1


@pytest.mark.parametrize('family', FAMILIES)
def test_gradients_are_those_through_the_merged_kernels(family):
  (_, got), (_, want) = measured(family)
  assert ('head/a' in got) != families.model(family).tied
  for path, x in got.items():
    size = np.abs(want[path]).max()
    assert size > 1e-4, path
    np.testing.assert_allclose(x, want[path], atol=1e-4 * size, err_msg=path)


@pytest.mark.parametrize('family', FAMILIES)
def test_bfloat16_adapters_are_near_float32_ones(family):
  base, params = families.params(family), adapted(family)
  exact, coarse = (np.asarray(SCORE(
      families.model(family, d), params, TOKENS).log_probs)
      for d in ('float32', 'bfloat16'))
  assert 0 < np.abs(exact - coarse).max() < 0.2
  plain = SCORE(families.model(family, 'bfloat16'), base, TOKENS).log_probs
  assert np.abs(exact - plain).max() > 0.2


def test_what_forgets_the_adapters_finds_no_policy():
  with pytest.raises(KeyError, match='policy'):
    policy.sample(
        families.model('llama'), adapted('llama'), TOKENS,
        jax.random.split(KEY, 2), max_new_tokens=1, stops=(2,))


@pytest.mark.parametrize('options, complaint', [
    (dict(select='embed'), 'embed/embedding is no linear map: narrow select'),
    (dict(select='attention_norm'), 'attention_norm/scale .* is not a matrix'),
    (dict(select='final_norm'), 'final_norm/scale .* is not a matrix'),
    (dict(select='query'), 'query/bias .* is not a matrix'),
    (dict(select='q_proj'), r"matches .*q_proj.*; known: .*query/"),
    (dict(select='('), 'is no regex'),
    (dict(rank=17), 'rank=17 is more than layers/attention/key/kernel has'),
    (dict(rank=-1), 'rank=-1 must be 0 or more'),
    (dict(alpha=0.0), r'alpha=0\.0 above 0')])
def test_what_cannot_be_adapted_is_refused(options, complaint):
  with pytest.raises(ValueError, match=complaint):
    lora.attach(families.params('qwen2'), KEY, **dict(rank=2) | options)


def test_a_tied_head_is_no_map_of_its_own():
  with pytest.raises(ValueError, match=r'no parameter matches .*head'):
    lora.attach(families.params('qwen3'), KEY, rank=2, select='^head/')


FORWARD = functools.partial(policy.forward, families.model('llama'))


def rows(count=4):
  """Rows of a batch of demonstrations and of a rollout."""
  tokens = jax.random.randint(KEY, (count, 6), 2, families.V)
  number, mask = jnp.ones((count, 6)), jnp.ones((count, 6), bool)
  rollout = Rollout(
      tokens, mask, jnp.zeros_like(tokens), number, jnp.arange(count),
      -3 * number, -3 * number, 0 * number, mask.astype(jnp.float32),
      -3 * number, jnp.zeros(count, bool))
  slope = jnp.linspace(-1, 1, count * 6).reshape(count, 6)
  return Batch(tokens, mask), Experience(rollout, slope, slope)


STEPS = {
    'sft': (jax.jit(functools.partial(
        steps.gradient_step, forward=FORWARD, loss=sft.loss, tx=TX),
        donate_argnums=0), rows()[0]),
    'ppo': (jax.jit(functools.partial(
        steps.minibatch_epochs, forward=FORWARD, loss=ppo.loss, tx=TX,
        epochs=1, minibatches=2), donate_argnums=0), rows()[1])}


def state_of(params, critic):
  """Nobody's buffers but its own: a step is given them for good."""
  if critic:
    params = {**params, 'critic': value_head.make(
        families.params('llama')['policy'])}
  params = jax.tree.map(jnp.copy, params)
  return TrainState(
      jnp.zeros((), jnp.int32), params, jax.jit(TX.init)(params),
      jax.random.key(4))


@pytest.mark.parametrize('kind', STEPS)
def test_a_step_changes_the_adapters_and_the_critic_alone(kind):
  step, batch = STEPS[kind]
  before = jax.device_get(lora.attach(families.params('llama'), KEY, rank=3))
  state = state_of(before, kind == 'ppo')
  for _ in range(2):  # the first leaves A, whose gradient is by B, which is 0
    state, seen = step(state, batch)
  after = jax.device_get(state.params)
  jax.tree.map(np.testing.assert_array_equal, after['frozen'], before['frozen'])
  changed = jax.tree.map(
      lambda x, y: (x != y).mean(), after['lora'], before['lora'])
  assert min(jax.tree.leaves(changed)) > 0.9
  assert set(after) == {'frozen', 'lora'} | ({'critic'} & set(state.params))
  if kind == 'ppo':
    assert after['critic']['value_head']['kernel'].all()
  assert 0 < seen['update_norm'] < np.inf


def kernel_stacks(params, kind='sft', critic=False):
  """What the compiled step does with (L, M, N) arrays, less handing them on.

  Of the wide kernels, whose shapes no adapter has; and products of the shape
  of one layer's, which only its gradient is.
  """
  step, batch = STEPS[kind]
  compiled = step.lower(state_of(params, critic), batch).compile().as_text()
  found = re.findall(
      r'= f32\[2,(?:32,64|64,32)\]\S* ([\w-]+)\(', compiled)
  found += re.findall(r'= f32\[(?:32,64|64,32)\]\S* (dot)\(', compiled)
  return set(found) - {'parameter', 'get-tuple-element'}


@pytest.mark.parametrize('kind', STEPS)
def test_no_gradient_or_moment_of_a_frozen_kernel_exists(kind):
  """A step that trains all has them, which is what would be seen."""
  params = lora.attach(families.params('llama'), KEY, rank=3)
  assert not kernel_stacks(params, kind)
  assert 'dot' in kernel_stacks(families.params('llama'), kind)
  moments = [x.shape for x in jax.tree.leaves(TX.init(params)) if x.ndim]
  assert sorted(moments) == sorted(
      2 * [x.shape for x in jax.tree.leaves(params['lora'])])


def test_the_forward_pass_never_makes_the_merged_kernel():
  """Merged, kernels of two axes or three are added to something."""
  params = adapted('llama', select=trees.BLOCKS)

  def sums(score):
    text = jax.jit(score).lower(params).compile().as_text()
    return re.findall(r'= f32\[(?:2,)?(?:32,64|64,32)\]\S* add\(', text)

  assert not sums(lambda p: FORWARD(p, TOKENS).log_probs)
  assert sums(lambda p: FORWARD(lora.merge(p), TOKENS).log_probs)


def test_leaves_of_a_checkpoint_are_those_of_the_merged_policy_to_the_bit():
  """A bias lies beside an adapter, and is left alone."""
  params = adapted('qwen2', select='(query|up|head)/kernel$')
  stored = {k: np.asarray(v) for k, v in trees.named(params).items()}
  want = {k: np.asarray(v) for k, v in trees.named(
      lora.merge(params)['policy']).items()}
  paths = lora.policy_leaves(stored)
  assert sorted(paths) == sorted(want)
  for path, leaf in want.items():
    got = lora.load_leaf(path, stored, stored.__getitem__)
    np.testing.assert_array_equal(got, leaf, err_msg=path)
  plain = {f'policy/{k}': v for k, v in want.items()}
  assert lora.load_leaf('head/kernel', plain, plain.get) is want['head/kernel']


def test_merging_leaves_the_critic_and_what_has_no_adapter():
  params = {**adapted('llama', 'query/kernel'), 'critic': {'w': jnp.ones(2)}}
  whole = lora.merge(params)
  assert set(whole) == {'policy', 'critic'}
  changed = {
      path for path, x in trees.named(whole['policy']).items()
      if (x != trees.named(params['frozen']['policy'])[path]).any()}
  assert changed == {'layers/attention/query/kernel'}
