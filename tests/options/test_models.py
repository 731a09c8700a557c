"""Every field of a model changes its parameters or what it computes."""
import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft import parts, presets
from rlft.models import transformer
from rlft.ops import rope
from tests import options
from tests.options import Beside

SHAPE = dict(width=16, layers=2, heads=4, kv_heads=2, hidden=24)
WORDS = dict(vocabulary=20, pad=0, bos=1)
TOKENS = jnp.array([[0, 0, 1, 5, 9, 7, 1, 3], [1, 4, 4, 8, 2, 19, 3, 1]])
NOT_FIELDS = ('parent', 'name', 'dtype', 'pad_id', 'bos_id', 'remat',
              'spelled_out')  # of make(), or how it computes


def told(name='transformer', **given):
  """Logits of a model whose parameters are noise, and their shapes."""
  family = parts.load('models', name)
  size = {} if given.get('preset') else dict(shape=SHAPE)
  model = family.make(**WORDS | size | given)
  like = jax.eval_shape(
      lambda k: family.initialise(model, k), jax.random.key(0))

  def noise(path, x):
    seed = zlib.crc32(jax.tree_util.keystr(path).encode())
    return jnp.asarray(
        0.5 * np.random.default_rng(seed).normal(size=x.shape), x.dtype)

  @jax.jit
  def run(params):
    hidden, _ = model.apply({'params': params}, TOKENS)
    return model.apply({'params': params}, hidden, method='head'), hidden

  params = jax.tree_util.tree_map_with_path(noise, like)
  return jax.device_get(run(params)), [
      x.shape for x in jax.tree.leaves(like)]


def shaped(**given):
  return told(shape=SHAPE | given)


def angles(**given):
  return rope.frequencies(rope.Rope(**given), 16)


OTHER = {'transformer': dict(
    vocabulary=18, preset='tiny', shape=SHAPE | dict(hidden=16),
    dtype='bfloat16', pad=5, bos=4)}
# remat changes no number: it has a test of its own
PARTS = [options.Part(
    name, options.keywords(parts.load('models', name).make, ('remat',)),
    functools.partial(told, name), OTHER.get(name, {}))
    for name in parts.names('models')]
SHAPES = options.Part('shape', tuple(
    f for f in transformer.Model.__dataclass_fields__ if f not in NOT_FIELDS),
    shaped, dict(
        vocabulary=24, width=32, layers=3, heads=2, kv_heads=4, hidden=16,
        head_size=8, rope=dict(base=100.0), qkv_bias=True, qk_norm=True,
        tied=True, extra_embeddings=3, epsilon=0.1))
LLAMA3 = dict(scaling='llama3', factor=4.0, context=64)
ROPE = options.Part('rope', rope.Rope._fields, angles, dict(
    base=500.0, scaling=Beside('linear', dict(factor=2.0)),
    factor=Beside(3.0, dict(scaling='linear')),
    low_frequency=Beside(0.5, LLAMA3), high_frequency=Beside(9.0, LLAMA3),
    context=Beside(128, LLAMA3)))


@pytest.mark.slow
@pytest.mark.parametrize('part, word', options.cases([*PARTS, SHAPES]))
def test_every_keyword_does_something(part, word):
  options.check(part, word)


@pytest.mark.parametrize('part, word', options.cases([ROPE]))
def test_every_field_of_the_positions_does_something(part, word):
  options.check(part, word)


def test_every_preset_is_another_shape():
  shapes = [sorted(presets.shape(name).items()) for name in presets.SHAPES]
  assert all(shapes.count(shape) == 1 for shape in shapes)


def test_remat_changes_the_program_and_no_number():
  """For memory alone: what the backward pass makes again."""
  def program(remat):
    model = transformer.make(**WORDS, shape=SHAPE, remat=remat)
    like = jax.eval_shape(
        lambda k: transformer.initialise(model, k), jax.random.key(0))
    return str(jax.make_jaxpr(jax.grad(lambda p: jnp.sum(
        model.apply({'params': p}, TOKENS)[0])))(like))

  names = ['none', *(n for n in transformer.REMAT if n != 'none')]
  assert len({program(name) for name in names}) == len(names) > 1
