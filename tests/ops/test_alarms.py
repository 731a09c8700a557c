"""What ends a run, and what does not."""
import jax.numpy as jnp
import pytest

from rlft.ops import alarms

NONE = dict(skipped=0, max_kl=0.0, max_ratio=0.0, min_entropy=0.0,
            max_zero_spread=0.0, max_empty=0.0, max_truncated=0.0,
            max_unjudged=0.0)
FINE = dict(completion_tokens=8.0, skipped=0.0, kl=0.1, ratio_max=1.2,
            entropy=1.0)


def look(seen=(), data=(), before=0, **limits):
  return alarms.look({**FINE, **dict(seen)}, dict(data), before, step=7,
                     **{**NONE, **limits})


def test_steps_without_fruit_are_counted_in_a_row():
  bad = dict(skipped=jnp.asarray(0.25))
  assert look() == 0
  assert look(bad) == 1
  assert look(bad, before=3) == 4
  assert look(before=3) == 0
  assert look(data=dict(advantage_largest=0.0), before=1) == 2
  assert look(data=dict(advantage_largest=1e-9), before=1) == 0


def test_as_many_in_a_row_as_are_allowed_end_the_run():
  assert look(dict(skipped=1.0), before=1, skipped=3) == 2
  with pytest.raises(alarms.Halt, match=r'an update was skipped.* 3 st'):
    look(dict(skipped=1.0), before=2, skipped=3)
  with pytest.raises(alarms.Halt, match='all advantages were 0, and 3 steps'):
    look(data=dict(advantage_largest=0.0), before=2, skipped=3)
  assert look(dict(skipped=1.0), before=99, skipped=0) == 100


def test_a_policy_that_ends_at_once_is_found():
  assert look(data=dict(empty=0.99), before=2, skipped=3) == 0
  with pytest.raises(alarms.Halt, match='every completion was empty, and 3 st'):
    look(data=dict(empty=1.0), before=2, skipped=3)


@pytest.mark.parametrize('key, name', [
    ('max_zero_spread', 'zero_spread'), ('max_empty', 'empty'),
    ('max_truncated', 'truncated'), ('max_unjudged', 'unjudged')])
def test_a_limit_on_the_rollout_is_passed(key, name):
  told = rf'{name} is 0\.75, beyond limits\.{key}=0\.5'
  with pytest.raises(alarms.Halt, match=told) as error:
    look(data={name: 0.75}, **{key: 0.5})
  assert error.value.exit_code == 44
  assert look(data={name: 0.5}, **{key: 0.5}) == 0
  assert look(data={name: 0.75}) == look(**{key: 0.5}) == 0


@pytest.mark.parametrize('key, name, limit, found, told', [
    ('max_kl', 'kl', 0.5, 0.6, r'kl is 0\.6, beyond limits\.max_kl=0\.5'),
    ('max_kl', 'kl', 0.5, float('nan'), 'kl is nan'),
    ('max_ratio', 'ratio_max', 10.0, 10.5, r'10\.5, beyond limits\.max_ratio'),
    ('min_entropy', 'entropy', 0.01, 0.001, r'0\.001, beyond limits\.min_ent'),
])
def test_a_limit_is_passed(key, name, limit, found, told):
  with pytest.raises(alarms.Halt, match=told) as error:
    look({name: jnp.asarray(found)}, **{key: limit})
  assert error.value.exit_code == 44
  assert look({name: limit}, **{key: limit}) == 0  # reached, not passed
  assert look({name: found}) == 0  # no limit
  seen = {k: v for k, v in FINE.items() if k != name}
  assert alarms.look(seen, {}, 0, step=1, **{**NONE, key: limit}) == 0


def test_a_batch_without_a_token_ends_the_run_at_once():
  with pytest.raises(alarms.Halt, match='no token of the batch counts'):
    look(dict(completion_tokens=jnp.zeros(())))
