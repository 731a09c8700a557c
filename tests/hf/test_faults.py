"""The fixtures can see: each fault of a conversion moves the numbers."""
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.models import transformer
from rlft.ops import modules, rope
from tests.hf.test_fixtures import TOLERANCE
from tests.parity import fixtures, numbers, ours

SEEN = 3 * TOLERANCE  # an error of that much fails by a clear margin


def turned(**changes):
  return lambda model, params: (
      model.clone(rope=model.rope._replace(**changes)), params)


def swapped(model, params):
  return turned(low_frequency=model.rope.high_frequency,
                high_frequency=model.rope.low_frequency)(model, params)


def other(**fields):
  return lambda model, params: (model.clone(**fields), params)


def layers(path, change):
  """`change` of one parameter of the layers."""
  def fault(model, params):
    *above, last = path.split('/')
    made = jax.tree.map(lambda x: x, params)  # dicts are new, arrays are not
    node = made['layers']
    for name in above:
      node = node[name]
    node[last] = change(node[last])
    return model, made
  return fault


def dealt(model, params):
  """Query heads go round the key heads, not in runs."""
  order = np.arange(model.heads).reshape(model.kv_heads, -1).T.ravel()
  heads = lambda x: x.reshape(*x.shape[:-1], model.heads, model.size)
  return layers('attention/query/kernel', lambda x: heads(x)[
      ..., order, :].reshape(x.shape))(*layers(
          'attention/out/kernel', lambda x: heads(x.mT)[
              ..., order, :].reshape(x.mT.shape).mT)(model, params))


def fresh_head(model, params):
  kernel = np.random.default_rng(0).normal(
      size=params['embed']['embedding'].shape).astype(np.float32).T * .3
  return model.clone(tied=False), params | {
      'head': {'kernel': jnp.asarray(kernel)}}


def scaled(model, params):
  """Scores over the root of width / heads, not of a head's size."""
  factor = (model.size * model.heads / model.width)**.5
  return layers('attention/query/kernel', lambda x: x * factor)(model, params)


def exchanged(model, params):
  mlp = params['layers']['mlp']
  return model, params | {'layers': params['layers'] | {
      'mlp': mlp | {'gate': mlp['up'], 'up': mlp['gate']}}}


ZERO, ONE = jnp.zeros_like, jnp.ones_like
FAULTS = {
    'the rope base is ignored': ('qwen2', turned(base=10_000.0)),
    'llama3 scaling is skipped': (
        'llama3_factor_8', turned(scaling='default')),
    'Mllama\'s llama3 scaling is skipped': (
        'mllama_first_layer_crosses', turned(scaling='default')),
    'low and high factor are swapped': ('llama3_factor_8', swapped),
    'the factor is always 8': ('llama3_factor_32_tied', turned(factor=8.0)),
    'the original context is another': (
        'llama3_factor_32_tied', turned(context=48)),
    'llama3 is taken for linear': (
        'llama3_factor_8', turned(scaling='linear')),
    'linear scaling is skipped': (
        'llama_linear_sharded', turned(scaling='default')),
    'a tied head is dropped': ('llama3_factor_32_tied', fresh_head),
    'the query bias is dropped': (
        'qwen2', layers('attention/query/bias', ZERO)),
    'the key bias is dropped': ('qwen2', layers('attention/key/bias', ZERO)),
    'the value bias is dropped': (
        'qwen2_tied_7_to_1', layers('attention/value/bias', ZERO)),
    'the query norm is dropped': (
        'qwen3', layers('attention/query_norm/scale', ONE)),
    'the key norm is dropped': (
        'qwen3_tied_wide_heads', layers('attention/key_norm/scale', ONE)),
    'queries go round 2 key heads, of 4': ('llama3_factor_8', dealt),
    'queries go round 2 key heads, of 14': ('qwen2_tied_7_to_1', dealt),
    'epsilon 1e-5 for 1e-2': ('llama3_factor_8', other(epsilon=1e-5)),
    'epsilon 1e-6 for 1e-5': (
        'llama3_factor_32_tied', other(epsilon=1e-6)),
    'epsilon 1e-6 for 1e-5, Mllama': ('mllama', other(epsilon=1e-6)),
    'epsilon 1e-5 for 1e-6': ('qwen3_tied_wide_heads', other(epsilon=1e-5)),
    'Mllama\'s layers are in another order': (
        'mllama', layers('mlp/up/kernel', lambda x: jnp.roll(x, 1, 0))),
    'a square kernel is transposed': (
        'llama_linear_sharded', layers('attention/out/kernel',
                                       lambda x: x.mT)),
    'gate and up are exchanged': ('qwen3', exchanged),
    'scores are scaled by width / heads': ('llama3_factor_32_tied', scaled),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_wrong_model_is_seen(fault):
  name, plant = FAULTS[fault]
  folder, asked, want = fixtures.load(name)
  model, params = plant(*ours.load(folder, asked.pad))
  got = want._replace(logits=ours.logits(model, params, asked))
  assert numbers.errors(got, want, asked)['logits'] > SEEN


class Late(modules.RMSNorm):
  """Norms of queries and keys leave their scale for after the rotation."""
  held: ClassVar = []

  @nn.compact
  def __call__(self, x):
    if not self.name.endswith(('query_norm', 'key_norm')):
      return super().__call__(x)
    scale = self.param('scale', jax.nn.initializers.ones, (x.shape[-1],))
    self.held.append(scale)
    return x * jax.lax.rsqrt(
        jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)


def test_a_norm_after_the_rotation_is_seen(monkeypatch):
  rotate = rope.rotate
  monkeypatch.setattr(modules, 'RMSNorm', Late)
  monkeypatch.setattr(rope, 'rotate', lambda *args: (
      rotate(*args) * Late.held.pop()[None, None, None]))
  folder, asked, want = fixtures.load('qwen3')
  got = want._replace(logits=ours.logits(*ours.load(folder, asked.pad), asked))
  assert numbers.errors(got, want, asked)['logits'] > SEEN


class Half(transformer.Model):
  """The embedding gets no gradient as a head."""

  def head(self, hidden):
    return hidden @ jax.lax.stop_gradient(self.embed.embedding).T


def test_half_of_a_tied_gradient_is_seen():
  folder, asked, want = fixtures.load('qwen2_tied_7_to_1')
  model, params = ours.load(folder, asked.pad)
  half = Half(**{k: getattr(model, k) for k in Half.__dataclass_fields__
                 if k not in ('parent', 'name')})
  found = numbers.errors(
      ours.of(half, params, folder, asked), want, asked)
  assert found['logits'] < TOLERANCE
  assert found['gradient of model.embed_tokens.weight'] > SEEN


def test_a_cache_that_is_one_position_off_is_seen(monkeypatch):
  rotate = rope.rotate
  monkeypatch.setattr(rope, 'rotate', lambda x, positions, how: rotate(
      x, positions + (x.shape[1] == 1), how))
  folder, asked, want = fixtures.load('llama3_factor_8')
  model, params = ours.load(folder, asked.pad)
  got = want._replace(written=ours.greedy(model, params, asked))
  assert numbers.errors(got, want, asked)['written'] > 0


@pytest.mark.parametrize('name', ['qwen2', 'mllama'])
def test_one_gradient_that_is_a_little_off_is_seen(name):
  """By 1e-4 of its largest entry, whichever tensor it is."""
  _, asked, want = fixtures.load(name)
  for tensor, right in want.gradients.items():
    wrong = right.copy()
    wrong.flat[np.argmax(np.abs(wrong))] *= 1 + 1e-4
    got = want._replace(gradients=want.gradients | {tensor: wrong})
    assert numbers.errors(
        got, want, asked)[f'gradient of {tensor}'] > TOLERANCE
