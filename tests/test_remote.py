"""A run directory in a bucket: gcsfs and tensorstore against one in memory."""
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import ml_collections
import pytest

from rlft import api, binding, directory, exchange, main, study, weights
from rlft.training import checkpoint, claims, metrics, preemption, seal, store
from rlft.types import Source
from tests import bucket, tiny
from tests.command import refused
from tests.hf import test_exchange

CONFIGS = {'sft': tiny.sft_config, 'rl': tiny.rl_config}
MACHINE = ('second', 'compilations')  # in names of what the machine decides


@pytest.fixture(scope='module')
def server():
  """One for all: tensorstore reads once where it is."""
  with bucket.served() as made, pytest.MonkeyPatch.context() as patch:
    for name, value in made.environment().items():
      patch.setenv(name, value)
    yield made


@pytest.fixture
def world(server):
  """The same, empty, with nothing asked and nothing that fails."""
  server.objects.clear()
  server.asked.clear()
  server.fails = lambda asked: None
  yield server
  assert not store._growing
  assert not [a for a in server.asked if a.what == 'refused']


@functools.cache
def built(kind):
  return binding.build(CONFIGS[kind]())


@contextmanager
def job(kind, **changes):
  """Runs inside take this job, which is compiled once."""
  state = jax.device_put(
      jax.tree.map(jnp.copy, built(kind).state), jax.devices()[0])
  made = built(kind)._replace(**{'state': state} | changes)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(binding, 'build', lambda config: made)
    yield


def run(kind, run_dir, num_steps=4, **changes):
  with job(kind, **changes):
    return api.run(CONFIGS[kind](num_steps), run_dir)


def at_call(kind, call, act):
  """The source of the job, which does something at its call-th call."""
  source, calls = built(kind).source, []

  def next_batch(*args):
    calls.append(1)
    if len(calls) == call:
      act()
    return source.next(*args)

  return Source(source.init, next_batch)


def planted():
  raise RuntimeError('planted')


def bits(name):
  return [x.tobytes() for x in jax.tree.leaves(checkpoint.load_params(name))]


def rows_of(run_dir):
  """All rows that a run logged, less what only its machine explains."""
  def plain(name):
    return [{k: v for k, v in row.items() if not any(m in k for m in MACHINE)}
            for row in metrics.read(store.where(run_dir) / name)]

  samples = store.where(run_dir) / 'samples'
  return (plain('metrics.jsonl'), plain('evals.jsonl'),
          {name: (samples / name).read_bytes()
           for name in sorted(store.children(samples))})


def same(remote, local, steps=(0, 2, 4)):
  assert rows_of(remote) == rows_of(local)
  assert seal.steps(store.where(remote)) == list(steps)
  for step in steps:
    assert bits(f'{remote}@{step}') == bits(f'{local}@{step}')


@pytest.fixture(scope='module')
def disk(tmp_path_factory):
  """disk(kind): the directory of a local run that nobody interrupted."""
  @functools.cache
  def made(kind):
    run_dir = tmp_path_factory.mktemp(kind) / 'run'
    run(kind, run_dir)
    return run_dir

  return made


def in_words(names):
  """Names of files, where chance and the clock have their say."""
  return {re.sub('tfevents.*', 'tfevents', name) for name in names
          if '/d/' not in name}


@pytest.mark.slow
@pytest.mark.parametrize('kind', CONFIGS)
def test_a_run_is_what_it_is_on_a_disk(disk, world, kind):
  assert str(run(kind, 'gs://bucket/runs/a')) == 'gs://bucket/runs/a'
  same('gs://bucket/runs/a', disk(kind))
  assert in_words(n.removeprefix('runs/a/') for n in world.names()) == in_words(
      str(p.relative_to(disk(kind))) for p in disk(kind).rglob('*')
      if p.is_file())
  named = [a.name for a in world.asked if a.what == 'put']
  run(kind, 'gs://bucket/runs/a/')  # there is nothing left to do
  same('gs://bucket/runs/a', disk(kind))
  assert not [a for a in world.asked if a.what == 'put'
              and 'checkpoints' in a.name][len([
                  n for n in named if 'checkpoints' in n]):]


@pytest.mark.parametrize('kind', CONFIGS)
def test_a_run_that_was_ended_by_a_signal_goes_on(disk, world, kind):
  """What it had done is all there, and no row twice."""
  strike = lambda: os.kill(os.getpid(), signal.SIGTERM)
  with pytest.raises(preemption.Preempted):
    run(kind, 'gs://bucket/a', source=at_call(kind, 4, strike))
  done = seal.steps(store.where('gs://bucket/a'))[-1]
  logged = metrics.read(store.where('gs://bucket/a/metrics.jsonl'))
  assert done in (2, 3)  # PPO heeds it within the rollout
  assert [row['step'] for row in logged] == list(range(1, done + 1))
  run(kind, 'gs://bucket/a')
  assert rows_of('gs://bucket/a') == rows_of(disk(kind))
  assert bits('gs://bucket/a@4') == bits(f'{disk(kind)}@4')


def test_a_run_that_fails_leaves_what_it_logged(disk, world):
  with pytest.raises(RuntimeError):
    run('sft', 'gs://bucket/a', source=at_call('sft', 5, planted))
  rows = world.read('a/metrics.jsonl').splitlines()
  assert [json.loads(row)['step'] for row in rows] == [1, 2, 3]
  run('sft', 'gs://bucket/a')
  same('gs://bucket/a', disk('sft'))


def test_older_steps_go_and_their_mark_is_the_first_of_them(world):
  config = CONFIGS['sft']()
  config.checkpoint.keep = 1
  with job('sft'):
    api.run(config, 'gs://bucket/a')
  assert seal.steps(store.where('gs://bucket/a')) == [4]
  assert not world.names('a/checkpoints/000002')
  mark = 'a/checkpoints/000002/commit_success.txt'
  later = world.asked[world.asked.index(('put', mark)):]
  gone = [asked.name for asked in later if asked.what == 'delete'
          and asked.name.startswith('a/checkpoints/000002')]
  assert gone[0] == mark and gone[1:]


def killed_at(world, name, run_dir):
  """A run in a process of its own, killed before that object is there."""
  process = subprocess.Popen(
      [sys.executable, '-m', 'rlft.main', 'run', f'--run_dir={run_dir}',
       '--config=tests/faults/runs.py:sft,deep', '--config.num_steps=4',
       '--config.evaluate.every=2', '--config.checkpoint.every=2'],
      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

  def strike(asked):
    if asked == ('put', name):
      process.kill()
      return 503
    return None

  world.fails = strike
  said = process.communicate(timeout=120)[1]
  world.fails = lambda asked: None
  assert process.returncode == -signal.SIGKILL, said


@pytest.mark.slow
def test_a_run_that_was_killed_in_a_save_goes_on(disk, world):
  """The half of step 2 is no step; rows beyond step 0 are made again."""
  killed_at(world, 'a/checkpoints/000002/commit_success.txt', 'gs://bucket/a')
  assert world.names('a/checkpoints/000002/params/')
  rows = world.read('a/metrics.jsonl').splitlines()
  assert [json.loads(row)['step'] for row in rows] == [1, 2]
  world.put('a/checkpoints/000003/params/x', b'')  # a step it never comes to
  run('sft', 'gs://bucket/a')
  assert not world.names('a/checkpoints/000003')
  same('gs://bucket/a', disk('sft'))


def spoil(world, step, kind='d'):
  """Flips a bit in the largest object of data of a step."""
  found = [n for n in world.names(f'a/checkpoints/{step:06d}/params/')
           if f'/{kind}/' in n]
  name = max(found, key=lambda n: len(world.read(n)))
  data = bytearray(world.read(name))
  data[len(data) // 2] ^= 1
  world.put(name, data)


@pytest.fixture
def finished(world):
  """Where a run has ended."""
  run('sft', 'gs://bucket/a')
  world.asked.clear()
  return 'gs://bucket/a'


def test_a_damaged_step_is_passed_over(disk, world, finished, capfd):
  spoil(world, 4)
  held = len(world.names('a/checkpoints/000004/'))
  with pytest.raises(RuntimeError):
    run('sft', finished, source=at_call('sft', 1, planted))
  assert 'set aside by 000004/corrupt.txt' in capfd.readouterr().err
  assert seal.steps(store.where(finished)) == [0, 2]
  assert len(world.names('a/checkpoints/000004/')) == held  # the mark for one
  run('sft', finished)
  same(finished, disk('sft'))
  assert 'a/checkpoints/000004/corrupt.txt' not in world.objects


def test_where_no_step_is_whole_it_does_not_begin_anew(world, finished):
  for step in (0, 2, 4):
    spoil(world, step)
  for _ in range(2):  # nor is anything cleared away by the next
    with pytest.raises(seal.Lost, match=r'kept as 0+\d/corrupt\.txt'):
      run('sft', finished)
    assert all(world.names(f'a/checkpoints/{step:06d}/params')
               for step in (0, 2, 4))


@pytest.mark.parametrize('part', ['seal/metadata', 'params/'])
def test_what_cannot_be_reached_is_not_taken_for_damage(world, finished, part):
  """Whether gcsfs reads it or tensorstore."""
  world.fails = lambda asked: 403 if (
      asked.what == 'get' and f'000004/{part}' in asked.name) else None
  with pytest.raises(OSError):
    run('sft', finished)
  world.fails = lambda asked: None
  assert seal.steps(store.where(finished)) == [0, 2, 4]
  run('sft', finished)


def fails(world, status, times, *parts):
  """Answers so to puts of some objects, the first so many times."""
  def answer(asked):
    nonlocal times
    if asked.what == 'put' and any(part in asked.name for part in parts):
      times -= 1
      return status if times >= 0 else None
    return None

  world.fails = answer


def test_a_slow_bucket_holds_up_no_step(world, disk):
  """Steps are made while one is written, which is none before it is whole."""
  order = []

  def slow(asked):
    if asked.what == 'put' and '/000002/' in asked.name:
      time.sleep(0.1)
      order.append(asked.name.rpartition('/')[2])

  source = built('sft').source
  world.fails = slow
  run('sft', 'gs://bucket/a', source=Source(source.init, lambda *given: (
      order.append('batch'), source.next(*given))[1]))
  same('gs://bucket/a', disk('sft'))
  assert order.count('batch') == 5  # the first is the check's
  fourth = [i for i, x in enumerate(order) if x == 'batch'][3]
  assert fourth < order.index('commit_success.txt')


def test_puts_that_fail_for_a_while_change_nothing(disk, world):
  fails(world, 503, 1, 'metrics.jsonl')
  run('sft', 'gs://bucket/a')
  same('gs://bucket/a', disk('sft'))


def code_of(run_dir, capfd):
  """Exit code of the command, and its last line."""
  words = ['run', '--config=tests/faults/runs.py:sft,deep',
           f'--run_dir={run_dir}',
           '--config.num_steps=4', '--config.evaluate.every=2',
           '--config.checkpoint.every=2']
  capfd.readouterr()
  with job('sft'):
    code = main.main(words)
  return code, capfd.readouterr().err.strip().splitlines()


@pytest.mark.parametrize('part, status, why', [
    ('metrics.jsonl', 403, 'Forbidden'), ('tfevents', 401, 'no: 401'),
    ('samples/000002', 403, 'Forbidden')])
def test_a_log_that_cannot_be_put_ends_the_run_with_45(
    disk, world, capfd, part, status, why):
  fails(world, status, 10**6, part)
  code, said = code_of('gs://bucket/a', capfd)
  assert code == 45 and len(said) == 1
  assert re.match(f'rlft: cannot write gs://bucket/a/.*{part}.*: {why}.*; make '
                  'room there', said[0])
  world.fails = lambda asked: None
  code, _ = code_of('gs://bucket/a', capfd)
  assert code == 0
  same('gs://bucket/a', disk('sft'))


def test_a_save_that_fails_is_told_and_the_next_one_counts(
    disk, world, capfd):
  fails(world, 403, 10**6, 'checkpoints/000002')
  code, said = code_of('gs://bucket/a', capfd)
  assert code == 0
  assert [line for line in said if 'step 2 is not saved' in line] == said
  same('gs://bucket/a', disk('sft'), (0, 4))


def test_two_saves_that_fail_in_a_row_end_the_run_with_45(world, capfd):
  fails(world, 403, 10**6, 'checkpoints/000002', 'checkpoints/000004')
  code, said = code_of('gs://bucket/a', capfd)
  assert code == 45 and 'gs://bucket/a@0 is whole' in said[-1]
  assert seal.steps(store.where('gs://bucket/a')) == [0]


def test_many_rows_are_few_puts(world, monkeypatch):
  """40 steps, logged one by one, with one save at the start and the end."""
  monkeypatch.setattr(binding, 'marks', lambda section, steps: {0, steps})
  run('sft', 'gs://bucket/a', num_steps=40)
  assert len(world.read('a/metrics.jsonl').splitlines()) == 40
  puts = {name: n for name, n in world.count('put').items()
          if '/checkpoints/' not in name}
  assert sum('metrics' in name or 'tfevents' in name for name in puts) == 2
  assert max(puts.values()) <= 3, puts


def test_what_grows_is_put_when_it_is_due(world, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(store.time, 'monotonic', lambda: now[0])
  path = store.where('gs://bucket/a/log.jsonl')
  with store.flushed():
    for second in range(100):
      now[0] = float(second)
      store.append(path, f'{second}\n'.encode())
      assert store.read(path).split()[-1] == str(second).encode()
    assert world.count('put') == {'a/log.jsonl': 3}  # after 30, 60 and 90 s
    assert world.read('a/log.jsonl').split()[-1] == b'90'
  assert world.read('a/log.jsonl').split() == [
      str(second).encode() for second in range(100)]


def test_the_last_who_comes_has_the_directory(world):
  """Who had it before finds out before it puts anything, and ends."""
  path = store.where('gs://bucket/a')
  told = 'gs://bucket/a has been taken over'
  with pytest.raises(claims.Ousted, match=told), directory.claim(path):
    store.append(path / 'log.jsonl', b'1')
    world.put('a/.lock', b'elsewhere 1 x')
    store.flush()
  assert world.names() == ['a/.lock']


def test_a_run_that_is_refused_leaves_nothing(world):
  path = store.where('gs://bucket/a')
  with pytest.raises(ValueError, match='no'), directory.claim(path):
    raise ValueError('no')
  assert world.names() == []


def test_checkpoints_in_a_bucket_are_read_by_name(
    disk, world, finished, tmp_path, capfd):
  local = disk('sft')
  out = tmp_path / 'scores.json'
  assert main.main(['eval', f'{finished}@last', f'--out={out}']) == 0
  assert [row['solved'] for row in json.loads(out.read_text())] == [
      row['solved'] for row in metrics.read(local / 'evals.jsonl')[-2:]]
  assert main.main(['compare', f'{finished}@0', f'{finished}@last',
                    f'--out={tmp_path / "pair"}', '--draws=1',
                    '--select=attention/query/kernel']) == 0
  assert main.main(['heal', f'{finished}@0', f'{finished}@4', '--edit=revert',
                    '--select=query/kernel', f'--out={tmp_path / "new"}']) == 0
  changed = [a != b for a, b in zip(
      bits(f'{tmp_path}/new@4'), bits(f'{local}@4'), strict=True)]
  assert sum(changed) == 1
  config = tiny.sft_config(2)
  config.init = f'{finished}@last'
  made = binding.build(config)
  assert [x.tobytes() for x in jax.tree.leaves(
      jax.device_get(made.state.params))] == bits(f'{local}@4')
  for out in ('compare', 'heal'):
    assert 'gs:// cannot be written to' in refused(
        [out, f'{local}@0', f'{local}@4', '--out=gs://bucket/out'], capfd)


@pytest.mark.parametrize('name, said', [
    ('gs://bucket', 'is no folder of a bucket'),
    ('gs://', 'is no folder of a bucket'),
    ('gs://bucket/a/../b', 'is no folder of a bucket'),
    ('gs://bucket//a', 'is no folder of a bucket'),
    ('gs://bucket/a*', 'is no folder of a bucket'),
    ('gs:/bucket/a', 'write gs://BUCKET/FOLDER'),
    ('gs://bucket/a/-b', 'do not begin with -'),
    ('gs://other/a', 'storage.buckets.get: 404'),
    ('s3://bucket/a', 's3:// cannot be written to')])
def test_a_place_that_is_none_is_refused(world, capfd, name, said):
  words = ['run', '--config=tests/faults/runs.py:sft,deep', f'--run_dir={name}']
  assert said in refused(words, capfd)
  assert not world.objects


def test_a_run_that_could_not_go_on_does_not_begin(world, capfd):
  """Orbax asks for the bucket where there are steps, and only then."""
  world.fails = lambda asked: 403 if asked.what == 'bucket' else None
  words = ['run', '--config=tests/faults/runs.py:sft,deep',
           '--run_dir=gs://bucket/a']
  assert 'storage.buckets.get: 403' in refused(words, capfd)
  assert not world.objects


def test_a_missing_client_is_one_line(world, capfd, monkeypatch):
  monkeypatch.setattr(store.importlib.util, 'find_spec', lambda name: None)
  store._ready.cache_clear()
  line = refused(['eval', 'gs://bucket/a@last'], capfd)
  assert 'pip install "gcsfs' in line


def test_a_missing_checkpoint_is_one_line(world, capfd):
  line = refused(['eval', 'gs://bucket/a@last'], capfd)
  assert 'no checkpoints in gs://bucket/a' in line
  world.fails = lambda asked: 403 if 'checkpoints' in asked.name else None
  line = refused(['eval', 'gs://bucket/a@last'], capfd)
  assert 'Forbidden' in line and 'no checkpoints' not in line


def test_a_model_goes_out_from_a_bucket(world, tmp_path):
  """A run that was imported, copied there; its layout is on this machine."""
  source = test_exchange.directory(tmp_path / 'hf')
  exchange.take(source, tmp_path / 'run')
  for path in (tmp_path / 'run').rglob('*'):
    if path.is_file():
      world.put(f'copy/{path.relative_to(tmp_path / "run")}', path.read_bytes())
  exchange.give('gs://bucket/copy@0', tmp_path / 'out')
  assert test_exchange.files(tmp_path / 'out') == test_exchange.files(source)


@pytest.mark.slow
def test_a_study_ends_with_its_report_there(disk, world, capfd):
  config = ml_collections.ConfigDict(dict(
      name='toy', order=('sft', 'rotation'), stages=dict(
          sft=study.stage('sft', tiny.sft_config()),
          rotation=study.stage('rotation', ml_collections.ConfigDict(dict(
              analysis=dict(name='rotation', draws=1, select='query/kernel'),
              checkpoints=dict(before='sft@0', after='sft@last')))))))
  with job('sft'):
    page = api.run(config, 'gs://bucket/study')
  assert str(page) == 'gs://bucket/study/report.html'
  assert rows_of('gs://bucket/study/sft') == rows_of(disk('sft'))
  assert {'report.html', 'summary.json', 'stages.json', 'config.json',
          'command.txt', 'rotation/rotation.json', 'rotation/rotation.npz'} <= {
              name.removeprefix('study/') for name in world.names('study/')}
  stages = json.loads(world.read('study/stages.json'))
  assert [row['finished'] for row in stages] == [True, True]
  html = world.read('study/report.html')
  warned = json.loads(world.read('study/summary.json'))['warnings']
  assert not [line for line in warned if 'npz' in line], warned
  assert weights.located('sft@2', page.parent / 'rotation') == (
      'gs://bucket/study/sft@2')
  capfd.readouterr()
  assert main.main(['report', 'gs://bucket/study']) == 0
  assert capfd.readouterr().out == 'gs://bucket/study/report.html\n'
  assert world.read('study/report.html') == html
