"""Every rule of every environment changes tasks, verdicts or weights."""
import numpy as np
import pytest

from rlft import envs, parts
from tests import options
from tests.options import Beside

TRAIN = dict(split='train')
OTHER = {
    'general_points': dict(
        faces=(11, 12, 13), ensure_face=True, target=30, cards=3, deck='52',
        split='held_out', held_out=Beside(0.6, TRAIN),
        validation=Beside(0.5, TRAIN), text='paper', mode='faithful',
        hints=False, thought_coef=0.1),
    'point_skills': dict(
        skill='translate', faces=(11, 12, 13), target=30, cards=3,
        split='held_out', held_out=Beside(0.6, TRAIN)),
}
BASE = {'point_skills': dict(skill='solve')}


def rules(name):
  """What any of the environment's functions takes."""
  module = parts.load('envs', name)
  return tuple(sorted({
      word for f in envs.OFFERS if hasattr(module, f)
      for word in options.keywords(getattr(module, f))}))


def told(name, **given):
  """Tasks, what is said to right, wrong and no answers, and their weights."""
  env = envs.bind(name, **BASE.get(name, {}) | given)
  rng = np.random.default_rng(0)
  found = []
  for task in [env.sample(rng) for _ in range(12)]:
    texts = ['', env.demonstrate(task)]
    texts += [env.mistake(rng, task) for _ in range(4)] if env.mistake else []
    for text in texts:
      spans = env.spans(task, text) if env.spans else ()
      found.append([repr(task), text, repr(spans)] + [
          repr(env.respond(task, [text] * n)) for n in (1, 6)])
  hands = [repr(t) for t in env.hands(3, 4)] if env.hands else []
  return found, hands


PARTS = [options.Part(
    name, rules(name), lambda name=name, **given: told(name, **given),
    OTHER.get(name, {})) for name in parts.names('envs')]


@pytest.mark.parametrize('part, word', options.cases(PARTS))
def test_every_rule_does_something(part, word):
  options.check(part, word)
