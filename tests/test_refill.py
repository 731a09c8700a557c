"""Fewer slots than rows, and prompts that rows share, change no text."""
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft import decoding, episodes, policy
from rlft.models import transformer
from rlft.ops import sharding
from tests import test_sampling as plain
from tests import tiny

PROMPTS = np.vstack([plain.PROMPTS, np.zeros((1, plain.WIDTH), np.int32)])
OF = np.array([0, 0, 0, 1, 2, 1, 3, 3, 3, 4, 2, 2, 0, -1], np.int32)
GIVEN = np.where(OF[:, None] < 0, 0, PROMPTS[OF])
KEYS = jax.random.split(jax.random.key(7), len(OF))
STOPS = tuple(range(5, 134, 7))
QUICKLY = {'xla_backend_optimization_level': 0}


def drawn(model, params, prompts=GIVEN, keys=KEYS, **options):
  """What is written, by a program that is compiled quickly."""
  options = dict(max_new_tokens=plain.NEW, stops=()) | options
  of = options.pop('of', None)
  sample = jax.jit(lambda params, prompts, keys, of: policy.sample(
      model, params, prompts, keys, of=of, **options), compiler_options=QUICKLY)
  return jax.device_get(sample(
      params, jnp.asarray(prompts), keys,
      None if of is None else jnp.asarray(of)))


def same(found, wanted):
  """Texts to the token, log-probs to rounding."""
  np.testing.assert_array_equal(found.tokens, wanted.tokens)
  np.testing.assert_array_equal(found.mask, wanted.mask)
  for name in ('log_probs', 'sampling_log_probs'):
    np.testing.assert_allclose(
        getattr(found, name), getattr(wanted, name), atol=1e-5)


@pytest.mark.parametrize('bos, temperature, slots', [
    pytest.param(1, 0.7, 3), pytest.param(None, 0.7, 5, marks=pytest.mark.slow),
    pytest.param(1, 0.0, 8, marks=pytest.mark.slow)])
def test_slots_and_shared_prompts_change_no_text(bos, temperature, slots):
  """Rows end at once, before others and not at all; two have no prompt."""
  model, params = plain.peaked(2)
  model = model.clone(bos_id=bos)
  rule = decoding.bind(**plain.TRUNCATED) if temperature else None
  options = dict(temperature=temperature, rule=rule, stops=STOPS)
  wanted = drawn(model, params, **options)
  sizes = wanted.mask.sum(1)
  assert {0, 1, plain.NEW} < set(sizes.tolist()) and sizes[9] == sizes[13] == 0
  found = drawn(model, params, PROMPTS, of=OF, slots=slots, **options)
  same(found, wanted)
  assert wanted.steps == plain.NEW - 1  # the longest row's
  decoded = np.maximum(sizes - 1, 0).sum()
  assert -(-decoded // slots) <= found.steps < decoded


@pytest.mark.slow
def test_a_stack_of_layers_in_two_parts_is_no_other(monkeypatch):
  """As on accelerators, whose layers are a loop."""
  monkeypatch.setattr(transformer, 'SPELLED_OUT', 0)
  model, params = plain.peaked(2)
  of = np.array([0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0], np.int32)  # of its half's
  given = plain.PROMPTS[of + 2 * (np.arange(12) > 5)]
  wanted = drawn(model, params, given, KEYS[:12])
  ends = tuple(int(wanted.tokens[row, plain.WIDTH + n]) for row, n in (
      (0, 3), (7, 0), (9, 5)))
  wanted = drawn(model, params, given, KEYS[:12], stops=ends)
  for slots in (4, 12):
    same(drawn(model, params, plain.PROMPTS, KEYS[:12], stops=ends, of=of,
               slots=slots, parts=2), wanted)


def contexts():
  """Four groups of four, of two lengths."""
  return [[1] + [9 + i] * (3 + 4 * (i % 2)) for i in range(4) for _ in range(4)]


def completed(**options):
  meter = Counter()
  complete = episodes.completer(
      tiny.model(), pad=0, stops=tuple(range(4, 24)), max_new_tokens=8,
      temperature=3.0, meter=meter, **options)
  new, scores = complete(
      tiny.initialised(), contexts(), jax.random.split(jax.random.key(0), 16))
  return new, np.array([x for score in scores for x in score.log_probs]), meter


def test_what_a_completer_says_it_took():
  """By hand: prompts of 16 columns, then a position a slot and step."""
  new, _, meter = completed(rows=16)
  decoded = sum(len(row) - 1 for row in new)
  steps = 16 * (max(map(len, new)) - 1)
  assert meter == dict(
      decoded=decoded, steps=steps, needed=2 * (4 + 8) + decoded,
      computed=4 * 16 + steps)


@pytest.mark.slow
def test_batches_and_slots_change_no_text():
  new, scores, meter = completed(rows=16)
  for options in (dict(rows=16, slots=4), dict(rows=6, slots=4), dict(rows=3)):
    other, log_p, used = completed(**options)
    assert other == new
    np.testing.assert_allclose(log_p, scores, atol=1e-5)
    assert used['decoded'] == meter['decoded']
    assert used['steps'] < meter['steps']


@pytest.mark.slow
@pytest.mark.parametrize('sizes', [(8, 1, 1), (2, 2, 2)])
def test_devices_change_no_text_and_send_no_cache(sizes):
  """Each fills its own slots, from its own queue and prompts."""
  new, scores, _ = completed(rows=16)
  mesh = sharding.of(jax.devices(), **dict(
      zip(sharding.AXES, sizes, strict=True)))
  with sharding.over(mesh):
    assert sharding.size() == sizes[0] * sizes[1]
    other, log_p, _ = completed(rows=16, slots=8)
    assert other == new
    np.testing.assert_allclose(log_p, scores, atol=1e-5)
    if sizes[2] == 1:
      sent = [SENT.findall(compiled(64, 16, 32, parts=n)) for n in (8, 1)]
      assert not sent[0] and sent[1]


# an array of more axes than rows and columns, from one device to another
SENT = re.compile(r'\[(?:\d+,){2,}\d+\]\S* (?:all-|collective-)\w+\(')


def compiled(rows, prompts, slots, **options):
  """The program of a sampler, of 19 + 10 columns."""
  sample = episodes.sampler(
      tiny.model(), pad=0, stops=(2,), max_new_tokens=10, temperature=1.0,
      slots=slots, **options)
  return sample.lower(
      tiny.initialised(), jnp.ones((prompts, 19), jnp.int32),
      jax.random.split(jax.random.key(0), rows),
      jnp.zeros((rows,), jnp.int32)).compile().as_text()


@pytest.mark.slow
def test_the_cache_is_written_in_place():
  """No step and no refill copies one: 32 rows, 2 heads, 8 x 29 numbers."""
  text = compiled(64, 16, 32)
  made = set(re.findall(
      r'f32\[32,2,(?:8,29|29,8)\]\S* ([\w-]+)\(', text))
  assert 'dynamic-update-slice' in made and 'copy' not in made
