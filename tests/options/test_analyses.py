"""Every keyword of the analyses, and of every entry of a sweep, matters."""
import functools

import jax
import jax.numpy as jnp
import pytest

from rlft import parts
from rlft.analyses import restoration
from rlft.spectral import entries
from tests import options
from tests.options import Beside

SHAPES = {'attention/query': (4, 12, 8), 'mlp/up': (4, 8, 20)}
# The run's to say: what is compared, with what files, by which devices.
GIVEN = ('before', 'after', 'stored', 'cache', 'mesh')


@functools.cache
def checkpoint(name):
  """One base and random changes of it, of different sizes."""
  tree = {}
  for n, (path, shape) in enumerate(SHAPES.items()):
    module, leaf = path.split('/')
    normal = lambda s, n=n, shape=shape: jax.random.normal(
        jax.random.fold_in(jax.random.key(s), n), shape)
    kernel = normal(0)
    for seed, letter in enumerate('bcd', start=1):
      kernel += 0.1 * seed * normal(seed) * (letter == name)
    tree.setdefault(module, {})[leaf] = {'kernel': kernel}
  return {'layers': tree}


def rotated(**given):
  found = parts.load('analyses', 'rotation').analyse(
      {name: checkpoint(name) for name in 'abcd'}, before='a', after='b',
      **given)
  # what was asked is in the answer: only what was found counts
  return list(found['rows']), found['curves']


def restored(*, sweep=None, **given):
  """The edited matrices, without the labels that repeat what was asked."""
  sweep = sweep or (dict(kind='vectors', top=0.4), dict(kind='noise',
                                                        amount=0.5))
  return jax.device_get([edit.params for edit in restoration.edits(
      checkpoint('a'), checkpoint('b'), sweep=sweep, **given)])


TOLD = {'rotation': ('analyse', rotated), 'restoration': ('edits', restored)}
OTHER = {
    'rotation': dict(
        seed=1, top=0.5, draws=2, select='query', null_after='c',
        null_before=Beside('d', dict(null_after='c')), reference=True,
        floor='bfloat16'),
    'restoration': dict(
        sweep=(dict(kind='values', top=0.5),), seed=1, select='query'),
}
ENTRIES = dict(  # of a sweep's entry, by keyword
    top=0.6, tail=Beside(0.3, dict(top=0.3)), top_count=3,
    tail_count=Beside(2, dict(top=0.3)), polar=False, reference=True,
    layers=(0.0, 0.5), layer_numbers=(1, 3), modules=('query',))
WAY = dict(amount=0.5)
STEPS = dict(  # a step needs one of three
    amount=Beside(0.25, WAY), layers=Beside((0.0, 0.5), WAY),
    layer_numbers=Beside((1, 3), WAY), modules=Beside(('query',), WAY),
    distance=Beside(0.5, WAY), match=Beside('values top=0.4', WAY))


def part(name):
  function, told = TOLD[name]
  return options.Part(name, options.keywords(
      getattr(parts.load('analyses', name), function), GIVEN), told,
      OTHER.get(name, {}))


def edited(kind, **given):
  """One edit; the first of the sweep is there to be matched."""
  if given.keys() & {'distance', 'match'}:
    given.pop('amount', None)  # one of the three
  if given.get('reference'):
    given.pop('polar', None)
  first = (dict(kind='values', top=0.4),) if 'match' in given else ()
  return restored(sweep=(*first, dict(kind=kind, **given)))[-1]


KINDS = [options.Part(
    kind, tuple(entries.KINDS[kind].defaults), functools.partial(edited, kind),
    STEPS if 'amount' in entries.KINDS[kind].defaults else ENTRIES)
    for kind in entries.KINDS]


def test_every_analysis_is_known_here():
  assert set(parts.names('analyses')) == set(TOLD), (
      'an analysis without a line in TOLD: say what is told of it')


@pytest.mark.slow
@pytest.mark.parametrize('part, word', options.cases(map(part, TOLD)))
def test_every_keyword_does_something(part, word):
  options.check(part, word)


@pytest.mark.slow
@pytest.mark.parametrize('part, word', options.cases(KINDS))
def test_every_keyword_of_an_edit_does_something(part, word):
  options.check(part, word)


@pytest.mark.slow
def test_every_kind_of_edit_is_another():
  found = [edited(kind, **(WAY if 'amount' in one.defaults else dict(
      top=0.5) if 'top' in one.defaults else {}))
      for kind, one in entries.KINDS.items()]
  leaves = [tuple(jnp.asarray(x).tobytes() for x in jax.tree.leaves(tree))
            for tree in found]
  assert len(set(leaves)) == len(leaves)
