"""Every keyword of every source of experience changes a batch or the state."""
import functools
import inspect
import json
import pathlib
import tempfile

import jax
import numpy as np
import pytest

from rlft import envs, episodes, parts, verifiers
from rlft.adapters import value_head
from rlft.experience import mixture
from rlft.objectives import ppo
from rlft.ops import alarms
from tests import options, tiny
from tests.options import Beside

GIVEN = ('tokenizer', 'model', 'advantages', 'ref_params')  # by the run
SPEED = ('sample_rows', 'slots', 'verifiers')  # no number: a test of their own
SKILL = dict(one=dict(weight=1.0, env=tiny.game()))
FOLLOWS = dict(kl_target=0.05)
BASE = {
    'conversations': dict(
        seed=0, files='a', rows=4, length=40, packed=True, slices=1),
    'demonstrations': dict(rows=3, length=36),
    'mixture': dict(rows=3, length=80, skills=SKILL),
    'rollouts': tiny.ROLLOUTS, 'dynamic': tiny.ROLLOUTS,
    'replay': tiny.ROLLOUTS}
PLAYED = dict(
    prompts=2, group=3, tries=1, temperature=2.0, max_new_tokens=4, length=96,
    reward_scale=1.0, skip_tokens=1,
    decoding=(('name', 'truncated'), ('top_k', 2)), kl_target=0.05,
    kl_horizon=Beside(50, FOLLOWS), end_truncated=True, mask_truncated=True,
    learn_from=('wrong',), prompt_length=40, rescore=False)
OTHER = {
    'conversations': dict(
        seed=1, files='b', rows=6, length=48, packed=False, slices=2),
    'demonstrations': dict(rows=4, length=40),
    'mixture': dict(rows=4, length=60, skills=dict(
        one=dict(weight=1.0, env=tiny.game(faces=(11, 12, 13))))),
    'rollouts': PLAYED, 'dynamic': PLAYED | dict(max_batches=1),
    'replay': dict(fresh=1.0, max_staleness=2),
}
HANDED_ON = {'replay': tuple(PLAYED)}  # as they are, to rollouts
# a sampler is compiled for most of their keywords
SLOW = ('rollouts', 'dynamic', 'replay')


@functools.cache
def params():
  policy = tiny.noised(tiny.initialised()['policy'], 0.1)
  return {'policy': policy, 'critic': tiny.noised(
      value_head.make(policy), 0.1)}


def run_gives(name):
  """What a run gives to a source, of what it takes."""
  known = inspect.signature(parts.load('experience', name).make).parameters
  every = dict(
      tokenizer=tiny.words(), model=tiny.model(),
      advantages=functools.partial(ppo.advantages, kl_reward_coef=0.2),
      ref_params=tiny.initialised())
  env = envs.bind(**tiny.game(split='train'))
  if name == 'dynamic':  # a fresh policy is paid the same for all it writes
    env = env._replace(respond=functools.partial(seldom, env.respond))
  return {k: v for k, v in every.items() if k in known}, (
      (env,) if 'env' in known else ())


def seldom(respond, task, completions):
  """What was said, but paid for its length, and only now and then."""
  return respond(task, completions)._replace(
      reward=float(len(completions[-1]) % 7 == 0))


def told(name, **given):
  """Two batches and what the source remembers."""
  section = BASE.get(name, {}) | given
  with tempfile.TemporaryDirectory() as folder:
    if 'files' in section:
      section['files'] = talk(pathlib.Path(folder), section['files'])
    context, env = run_gives(name)
    source = parts.load('experience', name).make(*env, **context, **section)
    state, found = source.init(), []
    for step in range(2):
      try:
        state, batch, _ = source.next(
            state, params(), {}, jax.random.key(step))
        found.append(jax.device_get(batch))
      except alarms.Halt:  # there is nothing to learn from
        found.append('halt')
  return found, state


def talk(folder, name):
  """A file of conversations of several lengths."""
  path = folder / f'{name}.jsonl'
  path.write_text(''.join(json.dumps({
      'prompt': '24 cards ' + ' '.join(['K'] * (1 + n % 7)) + ' :',
      'completion': f'{n % 9} + {1 if name == "a" else 2}'}) + '\n'
      for n in range(40)))
  return str(path)


def part(name):
  function = parts.load('experience', name).make
  return options.Part(
      name, options.keywords(
          function, (*GIVEN, *SPEED, *HANDED_ON.get(name, ()))),
      functools.partial(told, name), OTHER.get(name, {}))


PARTS = [part(name) for name in parts.names('experience')]


@pytest.mark.parametrize('part, word', options.cases(
    p for p in PARTS if p.name not in SLOW))
def test_every_keyword_does_something(part, word):
  options.check(part, word)


@pytest.mark.slow
@pytest.mark.parametrize('part, word', options.cases(
    p for p in PARTS if p.name in SLOW))
def test_every_keyword_of_what_samples_does_something(part, word):
  options.check(part, word)


def documents(**given):
  """What a mixture of two skills writes; `given` is of the first."""
  first = dict(weight=1.0, env=tiny.game(), mistakes=0) | given
  return told('mixture', skills=dict(
      one=first, two=dict(weight=1.0, env=dict(
          name='point_skills', skill='translate'))))


SKILLS = options.Part(
    'skill', options.keywords(mixture.bind_skill), documents, dict(
        weight=3.0, env=tiny.game(faces=(11, 12, 13)), mistakes=2))


@pytest.mark.parametrize('part, word', options.cases([SKILLS]))
def test_every_keyword_of_a_skill_does_something(part, word):
  options.check(part, word)


def test_what_is_repeated_is_the_same():
  """Or a difference would say nothing."""
  assert not options.differs(told('mixture'), told('mixture'))
  assert not np.array_equal(*(b.tokens for b in told('mixture')[0]))


@pytest.mark.slow
@pytest.mark.parametrize('more', [
    dict(sample_rows=4), dict(slots=2), dict(verifiers=dict(workers=1))])
def test_what_is_for_speed_changes_how_it_is_done_and_no_number(
    monkeypatch, more):
  """How many rows are sampled and decoded at once, where they are judged."""
  seen, completer, pool = [], episodes.completer, verifiers.pool
  monkeypatch.setattr(episodes, 'completer', lambda *a, **k: seen.append(
      (k['rows'], k['slots'])) or completer(*a, **k))
  monkeypatch.setattr(verifiers, 'pool', lambda respond, section, known: (
      seen.append(section) or pool(respond, section, known)))
  plain = told('rollouts')
  asked, seen[:] = list(seen), []
  again = told('rollouts', **more)
  jax.tree.map(functools.partial(  # a sampler of other rows rounds otherwise
      np.testing.assert_allclose, rtol=1e-4, atol=1e-5), plain, again)
  assert seen != asked
