"""Hostile inputs of the corpus and some new ones; `make fuzz` has a million."""
import itertools
import pathlib
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import __main__ as command
from tests.fuzz import mutation, rules, running, targets

FRESH = 2000
KINDS = {
    'formula': '012345', 'completion': '0123',
    'conversation': ('qwen2', 'llama3', 'words'),
    'config': ('key', 'load', 'variant', 'file'),
    'checkpoint': ('index', 'table', 'raw'),
    'name': ('stage', 'run', 'checkpoint', 'tokenizer', 'part')}


@pytest.mark.parametrize('name', targets.TARGETS)
def test_every_answer_is_as_it_may_be(name):
  count = len(mutation.seeds(name)) + FRESH
  found = running.run(name, count, seed=1)
  assert found.counts.total() == found.inputs == count
  assert found.growth < running.MOST_GROWTH
  # it is not all refused at the door
  assert len(found.counts) > 2 - (name == 'checkpoint')


@pytest.fixture(scope='module', params=targets.TARGETS)
def target(request, tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(tmp_path_factory.mktemp('fuzz'))
    folder = tmp_path_factory.mktemp(request.param)
    yield request.param, targets.TARGETS[request.param](folder)


texts = st.text(max_size=60) | st.text(
    '()[]{}"\':=,.@/*+-0123456789 \n\0aeformulanbe\ud800', max_size=60)


@settings(max_examples=300)
@given(st.data())
def test_any_text_is_answered(target, data):
  name, call = target
  kind = data.draw(st.sampled_from(KINDS[name]))
  seed = data.draw(st.sampled_from([x for x in mutation.seeds(name)
                                    if x.startswith(kind)] or ['']))
  at = data.draw(st.integers(0, len(seed)))
  running.attempt(call, data.draw(st.sampled_from([
      f'{kind}\x1f', seed[:at]])) + data.draw(texts))


def test_the_same_seed_throws_the_same():
  take = lambda seed: list(itertools.islice(running.fresh('name', seed), 500))
  assert take(1) == take(1) != take(2)
  assert len(set(take(1))) > 400


def test_corpora_are_small_and_without_repeats():
  size = 0
  for name in targets.TARGETS:
    seeds = mutation.seeds(name)
    assert len(set(seeds)) == len(seeds) >= 20
    size += (mutation.CORPUS / f'{name}.jsonl').stat().st_size
  assert size < 200_000


def test_mutants_are_seldom_long_and_sometimes_very():
  rng, corpus = random.Random(0), mutation.seeds('formula')
  sizes = [len(mutation.text(rng, corpus)) for _ in range(20_000)]
  assert max(sizes) >= 20_000 and sorted(sizes)[-200] <= mutation.LONGEST


@pytest.fixture
def faulty(monkeypatch, tmp_path):
  """A target that answers as told; what is left goes into a folder."""
  def plant(call):
    monkeypatch.setitem(targets.TARGETS, 'formula', lambda folder: call)

  monkeypatch.setattr(running, 'OUT', tmp_path)
  return plant


def silent(text):
  raise ValueError


def by_accident(text):
  return str(int('9' * 5000))


def hang(text):
  while True:
    pass


def swallow(text):
  try:
    hang(text)
  except Exception:
    return 'fine'


@pytest.mark.parametrize('call, said', [
    (lambda text: {}[text], 'KeyError'),
    (lambda text: rules.require(False, 'no'), 'Wrong: no'),
    (lambda text: pathlib.Path('/nowhere/x').stat(), 'FileNotFoundError'),
    (silent, 'a refusal by accident'), (by_accident, 'a refusal by accident'),
    (hang, 'Slow: no answer after 0.1 s'), (swallow, 'Slow: no answer'),
])
def test_a_bad_answer_is_seen(faulty, monkeypatch, capfd, tmp_path, call, said):
  monkeypatch.setattr(running, 'DEADLINE', 0.1)
  faulty(call)
  assert command.one('formula', 10, 0) == 1
  printed = capfd.readouterr().err
  first = mutation.seeds('formula')[0]
  assert said in printed and repr(first) in printed
  assert (tmp_path / 'formula.failed').read_text() == first


def test_a_refusal_has_one_line_without_codes():
  for said in ('a\nb', 'a\x1b[2Jb', 'a\u202eb', '\ud800', 'a\x85b'):
    with pytest.raises(rules.Wrong, match='codes or lines'):
      try:
        raise ValueError(said)
      except ValueError as error:
        rules.refusal(error)


def test_growth_is_seen(faulty, monkeypatch, capfd):
  now = running.resident()
  assert 50 < now < 100_000
  sizes = iter((now, now + 100, now + 400))  # at the start, warm, at the end
  monkeypatch.setattr(running, 'WARM', 3)
  monkeypatch.setattr(running, 'resident', lambda: next(sizes))
  faulty(lambda text: 'fine')
  assert command.one('formula', 12, 0) == 1
  assert 'grew by 300 MiB, allowed are 256' in capfd.readouterr().err


def test_the_input_in_progress_outlives_the_process(monkeypatch, tmp_path):
  monkeypatch.setattr(running, 'OUT', tmp_path)
  watch = running.watched('name')
  try:
    for text in ('long' * 300_000, 'a\ud800\x1fb'):
      watch(text)
    assert running.last('name') == 'a\ud800\x1fb'
    assert running.stuck('name')
    time.sleep(0.01)
    running.leave('name', 'x')
    assert not running.stuck('name')
  finally:
    running.faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize('words', [
    ['--only=none'], ['--inputs=0'], ['x'], ['--config.a=1'], ['--what=1']])
def test_the_command_declines(words, capfd):
  assert command.main(words) == 2
  assert capfd.readouterr().err.startswith('fuzz: ')
