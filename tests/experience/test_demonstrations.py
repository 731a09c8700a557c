"""Batches of demonstrations: pure functions of the key, held-out kept out."""
import collections

import jax
import numpy as np
import pytest

from rlft import envs
from rlft.experience import demonstrations, mixture
from rlft.ops import solutions
from tests import tiny

WORDS = tiny.words()
GAME = dict(name='general_points', text='compact', mode='corrected')
TRAIN = dict(**GAME, split='train')
SKILLS = {
    'solve': dict(weight=3.0, env=dict(name='point_skills', skill='solve')),
    'game': dict(weight=1.0, env=TRAIN),
    'corrected': dict(weight=1.0, mistakes=2, env=TRAIN),
}


def oracle(rows=6, length=36, **rules):
  return demonstrations.make(
      envs.bind(**(TRAIN | rules)), tokenizer=WORDS, rows=rows, length=length)


def mixed(rows=8, length=120, skills=SKILLS):
  return mixture.make(tokenizer=WORDS, rows=rows, length=length, skills=skills)


def batch_of(source, seed):
  _, batch, metrics = source.next(
      source.init(), None, {}, jax.random.key(seed))
  return batch, metrics


def documents(batch):
  """(tokens, mask) of every document of every row."""
  for row, mask in zip(batch.tokens, batch.mask, strict=True):
    starts = np.flatnonzero(row == WORDS.bos)
    ends = [*starts[1:], np.flatnonzero(row != WORDS.pad)[-1] + 1]
    assert starts[0] == 0
    for start, end in zip(starts, ends, strict=True):
      yield row[start:end], mask[start:end]


def text(tokens):
  return WORDS.decode([int(t) for t in tokens])


def values(completion):
  """The multiset of the number field."""
  return tuple(sorted(map(int, completion.partition(':')[0].split())))


@pytest.fixture(params=[oracle, mixed], ids=['demonstrations', 'mixture'])
def source(request):
  return request.param()


def test_a_batch_is_a_function_of_the_key(source):
  first, again, other = (batch_of(source, seed)[0] for seed in (0, 0, 1))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert (first.tokens != other.tokens).any()


def test_the_mask_stands_on_whole_completions(source):
  """The last one of a document, from its first word to its end token."""
  for tokens, mask in documents(batch_of(source, 0)[0]):
    assert tokens[-1] == WORDS.end and mask[-1]
    start = np.flatnonzero(mask)[0]
    assert mask[start:].all()
    before = text(tokens[:start])
    assert before.endswith(' :')  # a prompt's or a feedback's cue


def test_tokens_are_counted(source):
  batch, metrics = batch_of(source, 0)
  assert metrics['tokens'] == (batch.tokens != WORDS.pad).sum()
  assert batch.tokens.dtype == np.int32 and batch.mask.dtype == bool


def test_every_demonstration_is_right():
  batch, _ = batch_of(oracle(), 0)
  assert batch.tokens.shape == batch.mask.shape == (6, 36)
  for tokens, mask in documents(batch):
    answer = text(tokens[mask])
    formula = answer.partition(':')[2].replace(' ', '')
    left, _, right = formula.partition('=')
    assert eval(left.replace('/', '*1.0/')) == pytest.approx(24)
    assert right == '24'
    assert sorted(map(int, ''.join(
        c if c.isdigit() else ' ' for c in left).split())) == list(
            values(answer))


@pytest.mark.parametrize('make', [
    lambda: oracle(rows=80),
    lambda: mixed(rows=20, skills={
        k: v for k, v in SKILLS.items() if k != 'solve'})])
def test_held_out_multisets_never_occur_in_training(make):
  rng = np.random.default_rng(0)
  bound = envs.bind(**GAME, split='held_out')
  kept = {tuple(sorted(bound.sample(rng).answer.values)) for _ in range(300)}
  batch, _ = batch_of(make(), 0)
  met = {values(text(tokens[mask])) for tokens, mask in documents(batch)}
  assert len(met) > 30 and len(kept) > 80
  assert not met & kept
  assert not any(solutions.in_split(v, 24, 'held_out', 0.25) for v in met)


def test_shares_of_a_mixture_are_its_weights():
  counts = collections.Counter()
  for seed in range(4):
    for tokens, _ in documents(batch_of(mixed(rows=16), seed)[0]):
      ends = np.flatnonzero(tokens == WORDS.end)
      assert len(ends) <= 3  # one try, or up to two mistakes before it
      kind = 'solve' if 'numbers' in text(tokens) else 'game'
      counts['corrected' if len(ends) > 1 else kind] += 1
  total = sum(counts.values())
  assert total > 200
  assert counts['solve'] / total == pytest.approx(0.6, abs=0.1)
  assert counts['corrected'] / total == pytest.approx(0.2, abs=0.08)


def test_mistakes_are_answered_by_the_verifier():
  only = {'corrected': SKILLS['corrected']}
  for tokens, mask in documents(batch_of(mixed(skills=only), 0)[0]):
    first = np.flatnonzero(tokens == WORDS.end)[0]
    assert text(tokens[first + 1:]).startswith('no ')
    assert not mask[:first + 1].any()


def test_rows_are_filled():
  batch, _ = batch_of(mixed(), 0)
  assert (batch.tokens != WORDS.pad).mean() > 0.7


@pytest.mark.parametrize('source', [oracle(length=20), mixed(length=20)])
def test_what_does_not_fit_is_refused(source):
  with pytest.raises(ValueError, match='does not fit in 20: raise'):
    batch_of(source, 0)


@pytest.mark.parametrize('skills, complaint', [
    ({}, 'skills'),
    ({'a': dict(weight=1.0, env=dict(name='chess'))}, "no 'chess'"),
    ({'a': dict(weight=-1.0, env=TRAIN)}, 'weight'),
    ({'a': dict(weight=0.0, env=TRAIN)}, 'weight'),
    ({'a': dict(weight=1.0, env=TRAIN, mistake=2)}, 'mistake'),
    ({'a': dict(weight=1.0, mistakes=2, env=dict(
        name='point_skills', skill='solve'))}, 'mistakes')])
def test_skills_that_make_no_sense_are_refused(skills, complaint):
  with pytest.raises(ValueError, match=complaint):
    mixed(skills=skills)
