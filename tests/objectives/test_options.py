"""Every keyword of every objective changes something.

Each is changed alone, in a batch and beside other options under which it can
matter. A new keyword needs a line in OTHER.
"""
import functools
import inspect

import jax
import numpy as np
import pytest

from rlft import parts
from tests.objectives import bigram

pytestmark = pytest.mark.slow  # a program for each case

# keyword: another value than in ACTIVE or its default
OTHER = dict(
    clip=0.05, clip_low=0.05, clip_high=0.05, value_clip=None, value_coef=0.1,
    entropy_coef=0.3, kl_coef=0.7, kl_estimator='k2', ratio_guard=None,
    aggregation='constant_length', discount=0.8, lam=0.5, whiten=False,
    whiten_rewards=True, kl_reward_coef=0.9, solved=1.8, overlong_limit=6,
    overlong_margin=1, overlong_penalty=0.3, importance_cap=1.1)
# what else has to be on
ACTIVE = dict(
    kl_coef=0.2, kl_reward_coef=0.2, ratio_guard=1.5, solved=0.2,
    overlong_limit=5, overlong_margin=3)


def keywords(function):
  return [p.name for p in inspect.signature(function).parameters.values()
          if p.kind is p.KEYWORD_ONLY]


def active(function):
  known = {k: v for k, v in ACTIVE.items() if k in keywords(function)}
  return functools.partial(function, **known)


CASES = [
    (name, kind, keyword) for name in parts.names('objectives')
    for kind in ('loss', 'advantages')
    if (function := getattr(parts.load('objectives', name), kind, None))
    for keyword in keywords(function)]


def told(module, kind, **options):
  """What the function gives, on samples of policies to both sides."""
  found = []
  for behaviour in (1.0, -1.0):
    rollout = bigram.rollout(behaviour=behaviour)
    if kind == 'advantages':
      batch = active(module.advantages)(rollout, **options)
      found.append((batch.advantages, batch.returns))
    else:
      batch = active(module.advantages)(rollout)
      found.append(jax.value_and_grad(lambda p, batch=batch: active(
          module.loss)(bigram.forward(p, batch.tokens), batch, **options)[0])(
              bigram.PARAMS))
  return found


@pytest.mark.parametrize('name, kind, keyword', CASES)
def test_every_keyword_changes_something(name, kind, keyword):
  assert keyword in OTHER, (
      f'{kind}() of {name} takes {keyword}, of which no other value is known: '
      'add one to OTHER, and to ACTIVE what has to be set for it to matter')
  module = parts.load('objectives', name)
  default = inspect.signature(
      getattr(module, kind)).parameters[keyword].default
  assert OTHER[keyword] != ACTIVE.get(keyword, default)
  moved = jax.tree.map(
      lambda a, b: np.abs(a - b).max(), told(module, kind),
      told(module, kind, **{keyword: OTHER[keyword]}))
  assert max(jax.tree.leaves(moved)) > 1e-4, f'{keyword} is a dead option'


def test_a_dead_option_is_seen(monkeypatch):
  module = parts.load('objectives', 'sft')

  def loss(outputs, batch, *, clip=0.2):
    return parts.load('objectives', 'grpo').loss(outputs, batch)

  monkeypatch.setattr(module, 'loss', loss)
  monkeypatch.setattr(
      module, 'advantages', parts.load('objectives', 'grpo').advantages,
      raising=False)
  with pytest.raises(AssertionError, match='clip is a dead option'):
    test_every_keyword_changes_something('sft', 'loss', 'clip')
  with pytest.raises(AssertionError, match='sft takes strength, of which no o'):
    test_every_keyword_changes_something('sft', 'loss', 'strength')
