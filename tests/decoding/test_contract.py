"""What every decoding rule promises: a new file is found here."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft import decoding, parts

SETTINGS = {
    'truncated': (
        dict(top_k=4), dict(top_p=0.7), dict(top_k=9, top_p=0.6),
        dict(top_k=10_000, top_p=0.9)),
}
RULES = [(name, settings) for name in parts.names('decoding')
         for settings in SETTINGS.get(name, (None,))]
B, V = 6, 40
LOGITS = 2.0 * jax.random.normal(jax.random.key(0), (B, V))


@pytest.fixture(params=RULES, ids=str)
def rule(request):
  name, settings = request.param
  assert settings is not None, f'no settings of {name}: add some here'
  return decoding.bind(name, **settings)


def kept(logits):
  return np.asarray(logits) > -np.inf


def test_some_are_excluded_and_the_likeliest_never_is(rule):
  keeps = kept(rule(LOGITS))
  assert keeps[np.arange(B), LOGITS.argmax(-1)].all()
  assert not keeps.all(1).any()


def test_what_is_kept_keeps_its_logit(rule):
  got = rule(LOGITS)
  assert got.shape == LOGITS.shape and got.dtype == LOGITS.dtype
  np.testing.assert_array_equal(
      np.asarray(got)[kept(got)], np.asarray(LOGITS)[kept(got)])


def test_what_was_excluded_before_stays_excluded(rule):
  best = LOGITS.argmax(-1)
  masked = LOGITS.at[jnp.arange(B), best].set(-jnp.inf)
  got = rule(masked)
  assert not kept(got)[np.arange(B), best].any()
  assert kept(got).any(1).all()


def test_one_token_that_is_left_is_kept(rule):
  only = jnp.where(jnp.arange(V)[None] == 7, LOGITS, -jnp.inf)
  np.testing.assert_array_equal(rule(only), only)


def test_ties_leave_at_least_one(rule):
  assert kept(rule(jnp.zeros((B, V)))).any(1).all()


def test_a_row_does_not_see_the_others(rule):
  order = jnp.array([3, 1, 5, 0, 2, 4])
  np.testing.assert_array_equal(rule(LOGITS[order]), rule(LOGITS)[order])
  np.testing.assert_array_equal(rule(LOGITS[:1]), rule(LOGITS)[:1])


def test_jit_equals_eager(rule):
  np.testing.assert_array_equal(jax.jit(rule)(LOGITS), rule(LOGITS))


@pytest.mark.parametrize('settings, complaint', [
    (dict(), "no '' in rlft/decoding; known: .*truncated"),
    (dict(name='nucleus'), "no 'nucleus' in rlft/decoding; known: .*trunc"),
    (dict(name='truncated', k=3), 'takes no k; known: top_k, top_p'),
    (dict(name='truncated', logits=3), 'takes no logits'),
    (dict(name='truncated', top_k=-1), 'top_k is -1: give a whole number'),
    (dict(name='truncated', top_p=0.0), 'top_p is 0.0: give a number above 0'),
    (dict(name='truncated', top_p=1.5), 'top_p is 1.5: give a number above 0'),
    (dict(name='truncated', top_p=float('nan')), 'top_p is nan: give'),
])
def test_a_wrong_setting_is_told_when_it_is_bound(settings, complaint):
  with pytest.raises(ValueError, match=complaint):
    decoding.bind(**settings)


def test_a_section_becomes_pairs_that_can_be_hashed():
  section = dict(name='truncated', top_k=20, top_p=0.8)
  pairs = decoding.read({'decoding': section}, 'config')
  assert dict(pairs) == section and hash(pairs)
  assert decoding.read({'decoding': {}}, 'config') == ()
  assert decoding.read({}, 'config') == ()  # of an older run


@pytest.mark.parametrize('section, complaint', [
    ('truncated', r"config\.evals\.id\.decoding is 'truncated': write dict\("),
    (dict(name='truncated', top_p=2.0), r'config\.evals\.id\.decoding: top_p'),
])
def test_a_wrong_section_is_named(section, complaint):
  with pytest.raises(ValueError, match=complaint):
    decoding.read({'decoding': section}, 'config.evals.id')


def test_a_bound_rule_is_the_part_with_its_settings():
  bound = decoding.bind('truncated', top_k=2)
  assert isinstance(bound, functools.partial)
  assert bound.keywords == {'top_k': 2}
