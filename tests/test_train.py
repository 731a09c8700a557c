"""The loop: a run that was stopped ends as one that was not, to the bit."""
import functools
import json
import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft import binding, pulse, startup, train
from rlft.ops import alarms
from rlft.training import checkpoint, metrics, preemption, seal
from rlft.types import Source
from tests import tiny

CONFIGS = {'sft': tiny.sft_config, 'rl': tiny.rl_config,
           'lora': tiny.lora_config}
MACHINE = ('second', 'compilations')  # in names of what the machine decides


@functools.cache
def built(kind):
  """A job, compiled once; its state is donated, so hand out copies."""
  return binding.build(CONFIGS[kind]())


def placed(tree):
  """On the device by name, as what was restored is: compiled only once."""
  return jax.device_put(tree, jax.devices()[0])


def job_of(kind, **changes):
  state = placed(jax.tree.map(jnp.copy, built(kind).state))
  return built(kind)._replace(**{'state': state} | changes)


def run(kind, run_dir, job=None):
  with pytest.MonkeyPatch.context() as patch:
    if job is not None:
      patch.setattr(binding, 'build', lambda config: job)
    return train.run(CONFIGS[kind](), run_dir)


def bits(state):
  return [np.asarray(jax.random.key_data(x) if jnp.issubdtype(
      x.dtype, jax.dtypes.prng_key) else x).tobytes()
      for x in jax.tree.leaves(state)]


def rows_of(run_dir):
  """Everything that a run logged, less what only its machine explains."""
  def plain(name):
    return [{k: v for k, v in row.items() if not any(m in k for m in MACHINE)}
            for row in metrics.read(run_dir / name)]

  samples = {p.name: p.read_text()
             for p in sorted((run_dir / 'samples').iterdir())}
  return plain('metrics.jsonl'), plain('evals.jsonl'), samples


WRITTEN = {}  # directory of a whole run -> when each of its rows was written


@pytest.fixture(scope='module', params=list(CONFIGS))
def whole(request, tmp_path_factory):
  """(kind, directory, last state) of a run that nobody interrupted."""
  run_dir = tmp_path_factory.mktemp(request.param)
  write, seen = metrics.write, WRITTEN.setdefault(run_dir, [])

  def timed(*args):
    seen.append(time.monotonic())
    return write(*args)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(metrics, 'write', timed)
    state = run(request.param, run_dir, job_of(request.param))
  return request.param, run_dir, state


def test_the_seconds_of_all_phases_are_the_walls(whole):
  """Within 2 %, from the first row to the last; measured from outside."""
  kind, run_dir, _ = whole
  rows = metrics.read(run_dir / 'metrics.jsonl')[1:]
  first, *_, last = WRITTEN[run_dir]
  spent = {k: sum(row.get(k, 0.0) for row in rows) for row in rows
           for k in row if k.endswith('_seconds')}
  wall = spent.pop('wall_seconds')
  assert wall == pytest.approx(last - first, rel=0.02)
  assert sum(spent.values()) == pytest.approx(last - first, rel=0.02)
  drawn = {'data'} if kind == 'sft' else {'rollout', 'reward', 'log_prob'}
  assert {k.removesuffix('_seconds') for k in spent} == drawn | {
      'update', 'evaluate', 'save', 'log'}
  assert min(spent.values()) > 0


def test_rows_tell_what_is_padding_and_what_is_masked(whole):
  kind, run_dir, _ = whole
  config = CONFIGS[kind]().experience
  for row in metrics.read(run_dir / 'metrics.jsonl'):
    size = config.length * (4 if kind == 'sft' else 8)
    assert row['padding'] == pytest.approx(1 - row['tokens'] / size)
    assert row['masked_rows'] == 0
    assert kind == 'sft' or (
        0 < row['sampling_padding'] < 1 and 0 < row['slot_use'] <= 1
        and {0 <= row[k] <= 1 for k in ('zero_spread', 'empty', 'truncated')}
        == {True})


def test_rows_without_a_token_that_counts_are_counted():
  job = job_of('sft')
  _, batch, _ = job.source.next(0, None, {}, jax.random.key(0))
  batch.mask[1:3] = False
  assert int(job.update(job.state, batch)[1]['masked_rows']) == 2


def stopping_source(kind, call):
  """The source, which raises at its call-th call."""
  source = built(kind).source
  calls = []

  def next_batch(*args):
    calls.append(1)
    if len(calls) == call:
      raise KeyboardInterrupt
    return source.next(*args)

  return Source(source.init, next_batch)


def stopping_evaluations(kind, call):
  """The evaluations, of which the last raises at its call-th call."""
  *first, last = built(kind).evaluations
  calls = []

  def score(params):
    calls.append(1)
    if len(calls) == call:
      raise KeyboardInterrupt
    return last.run(params)

  return [*first, last._replace(run=score)]


def test_a_run_logs_every_step_once(whole):
  kind, run_dir, state = whole
  logged, evals, samples = rows_of(run_dir)
  names = [e.name for e in built(kind).evaluations]
  assert [row['step'] for row in logged] == [1, 2, 3, 4]
  assert [(row['step'], row['eval']) for row in evals] == [
      (step, name) for step in (0, 2, 4) for name in names]
  assert list(samples) == ['000000.jsonl', '000002.jsonl', '000004.jsonl']
  assert seal.steps(run_dir) == [0, 2, 4]
  assert int(state.step) == 4
  assert all(np.isfinite(v) for row in logged for v in row.values())


def test_a_run_that_was_stopped_ends_as_one_that_was_not(whole, tmp_path):
  """Stopped in its fourth step; taken up again by a job built afresh."""
  kind, run_dir, state = whole
  with pytest.raises(KeyboardInterrupt):
    run(kind, tmp_path, job_of(kind, source=stopping_source(kind, 4)))
  assert seal.steps(tmp_path) == [0, 2]
  for name in ('metrics.jsonl', 'evals.jsonl'):  # and its last line was torn
    with (tmp_path / name).open('a') as file:
      file.write('{"step": 4, "lo')
  again = run(kind, tmp_path)
  assert bits(again) == bits(state)
  assert rows_of(tmp_path) == rows_of(run_dir)
  for step in (0, 2, 4):
    assert bits(checkpoint.load_params(f'{tmp_path}@{step}')) == bits(
        checkpoint.load_params(f'{run_dir}@{step}'))


@pytest.mark.parametrize('call, left', [(1, []), (2, [0])])
def test_a_run_stopped_while_it_evaluates_does_so_again(whole, tmp_path, call,
                                                        left):
  """Between the evaluations of step 0, and of step 2, which is not saved."""
  kind, run_dir, state = whole
  with pytest.raises(KeyboardInterrupt):
    run(kind, tmp_path,
        job_of(kind, evaluations=stopping_evaluations(kind, call)))
  assert seal.steps(tmp_path) == left
  assert bits(run(kind, tmp_path, job_of(kind))) == bits(state)
  assert rows_of(tmp_path) == rows_of(run_dir)


def test_a_finished_run_has_nothing_left_to_do(whole, tmp_path):
  kind, run_dir, state = whole
  before = rows_of(run_dir), (run_dir / 'metrics.jsonl').read_bytes()
  idle = job_of(kind, source=stopping_source(kind, 1),
                evaluations=stopping_evaluations(kind, 1))
  assert bits(run(kind, run_dir, idle)) == bits(state)
  assert (rows_of(run_dir), (run_dir / 'metrics.jsonl').read_bytes()) == before


def test_nothing_is_compiled_after_the_first_steps(whole):
  _, run_dir, _ = whole
  counts = [row['compilations'] for row in metrics.read(
      run_dir / 'metrics.jsonl')]
  # the first may be 0: runs of one process share what they compile
  assert counts[1:] == [counts[1]] * 3


def test_sft_learns_its_demonstrations():
  job = job_of('sft')
  state, losses = job.state, []
  for step in range(25):
    _, batch, _ = job.source.next(0, None, {}, jax.random.key(step))
    state, seen = job.update(state, batch)
    losses.append(float(seen['loss']))
  assert losses[0] == pytest.approx(np.log(tiny.words().vocabulary), abs=0.7)
  assert np.mean(losses[-5:]) < losses[0] - 1


@functools.cache
def first_rollout():
  job = job_of('rl')
  _, batch, data = job.source.next(0, job.state.params, {}, jax.random.key(1))
  return batch, data


def test_ppo_does_more_often_what_was_better_than_expected():
  batch, _ = first_rollout()
  good = np.arange(len(batch.tokens)) % 2 == 0
  gains = placed(np.float32(
      np.where(good, 1, -1)[:, None] * np.asarray(batch.mask)))
  job = job_of('rl')
  state, _ = job.update(job.state, batch._replace(advantages=gains))
  _, again = job_of('rl').update(state, batch._replace(advantages=gains))
  # the mean of ratio x advantage, of which -1 x was 0 up to rounding
  assert float(again['policy_loss']) < -0.01


def begin(batch, data, dtype='float32'):
  """The first rollout of a run, as it is checked."""
  source = Source(lambda: 0, lambda *_: (0, batch, data))
  train.begin(built('rl')._replace(source=source), dtype)


def test_a_sound_start_is_let_through():
  begin(*first_rollout())
  train.begin(built('rl'), 'float32')


def test_another_reference_is_refused():
  params = {**job_of('rl').state.params, **placed(tiny.initialised(5))}
  _, batch, data = built('rl').source.next(0, params, {}, jax.random.key(1))
  with pytest.raises(ValueError, match='policy is not its reference at step 0'):
    begin(first_rollout()[0], data)
  del batch


def test_a_sampler_of_other_weights_is_refused(monkeypatch):
  play = train.evaluate.episodes.play

  def elsewhere(respond, tasks, complete, params, *rest, **options):
    other = {**params, **placed(tiny.initialised(5))}
    return play(respond, tasks, complete, other, *rest, **options)

  monkeypatch.setattr(train.evaluate.episodes, 'play', elsewhere)
  job = job_of('rl')
  _, batch, data = job.source.next(0, job.state.params, {}, jax.random.key(1))
  with pytest.raises(ValueError, match='sampler and the trainer disagree'):
    begin(batch, data)


@pytest.mark.parametrize('shift', [0.01, -0.01])
def test_a_first_ratio_that_is_not_one_stops_the_run(shift, tmp_path):
  """Either way: above, the largest ratio tells, below, the mean one."""
  source = built('rl').source

  def shifted(*args):
    state, batch, data = source.next(*args)
    mask = batch.mask & (jnp.arange(batch.mask.shape[1]) % 2 == 0)[None]
    old = batch.rollout.log_probs + jnp.where(mask, shift, 0.0)
    rollout = batch.rollout._replace(log_probs=old)
    return state, batch._replace(rollout=rollout), data

  with pytest.raises(ValueError, match='first ratio is not 1 at step 0'):
    run('rl', tmp_path, job_of('rl', source=Source(source.init, shifted)))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('mean, largest, sound', [
    (0.019, 0.49, True), (0.021, 0.49, False), (0.019, 0.51, False)])
def test_the_gate_of_bfloat16(mean, largest, sound):
  """0.02 nats on average, 0.5 at most; float32 lets none of it through."""
  batch, data = first_rollout()
  data = data | dict(sampler_gap_mean=mean, sampler_gap=largest)
  with pytest.raises(ValueError, match=r'allowed 0\.0001 and 0\.0001 in fl'):
    begin(batch, data)
  if sound:
    begin(batch, data, 'bfloat16')
    return
  with pytest.raises(ValueError, match=r'allowed 0\.02 and 0\.5 in bfloat16'):
    begin(batch, data, 'bfloat16')


def test_a_start_that_is_not_a_number_is_refused():
  data = dict(sampler_gap=0.0, sampler_gap_mean=np.nan, kl_k1=0.0,
              reference_gap=0.0)
  with pytest.raises(ValueError, match='disagree'):
    startup.check(data, {'first_ratio_max': 1.0}, 'float32')


def test_one_pass_is_on_policy_too():
  """Without epochs and minibatches PPO takes one plain step a rollout."""
  config = tiny.rl_config()
  del config.passes['epochs'], config.passes['minibatches']
  update, _, _ = binding.build_update(config, tiny.model())
  batch, data = first_rollout()
  _, seen = jax.eval_shape(update, built('rl').state, batch)
  assert 'first_ratio_max' not in seen
  startup.check(data, {'ratio_max': 1.0, 'approx_kl': 0.0}, 'float32')
  for wrong in ({'ratio_max': 1.01}, {'ratio_max': 1.0, 'approx_kl': 1e-3}):
    with pytest.raises(ValueError, match='first ratio is not 1'):
      startup.check(data, wrong, 'float32')


def test_the_critic_is_built_where_it_is_asked_for():
  assert set(built('sft').state.params) == {'policy'}
  assert set(built('rl').state.params) == {'policy', 'critic'}
  assert set(built('lora').state.params) == {'frozen', 'lora', 'critic'}


def test_the_seed_decides_the_parameters():
  config = tiny.sft_config()
  config.seed = 1
  _, other = binding.build_params(config, tiny.words())
  own = built('sft').state.params
  assert jax.tree.structure(other) == jax.tree.structure(own)
  assert bits(other) != bits(own)


def section(every=0, steps=()):
  config = tiny.sft_config().evaluate
  config.every, config.steps = every, steps
  return config


def test_marks_by_hand():
  assert binding.marks(section(), 7) == {0, 7}
  assert binding.marks(section(every=3), 7) == {0, 3, 6, 7}
  assert binding.marks(section(steps=(1, 5)), 7) == {0, 1, 5, 7}
  with pytest.raises(ValueError, match='step 8 is beyond num_steps 7'):
    binding.marks(section(steps=(1, 8)), 7)


def test_rows_are_json(whole):
  _, run_dir, _ = whole
  found = [json.loads(line) for pattern in ('*.jsonl', 'samples/*')
           for path in run_dir.glob(pattern)
           for line in path.read_text().splitlines()]
  assert {'eval', 'step'} <= set().union(*found)


@pytest.mark.parametrize('spoil, told, saved', [
    (lambda p: p * jnp.nan, 'step 0 is not saved: params/.* is not fin', []),
    # finite, and a loss that is not
    (lambda p: p * 1e30, 'step 2: an update was skipped, .* and 2 steps', [0]),
], ids=['parameters', 'loss'])
def test_a_run_of_numbers_that_are_none_ends(tmp_path, spoil, told, saved):
  job = job_of('sft')
  job = job._replace(state=job.state._replace(
      params=jax.tree.map(spoil, job.state.params)), evaluations=())
  config = CONFIGS['sft']()
  config.limits.skipped = 2
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(binding, 'build', lambda config: job)
    with pytest.raises(alarms.Halt, match=told):
      train.run(config, tmp_path)
  assert seal.steps(tmp_path) == saved


def test_steps_without_fruit_count_across_an_interruption(tmp_path):
  job = job_of('sft')._replace(evaluations=())
  spoilt = job._replace(state=job.state._replace(
      params=jax.tree.map(lambda p: p * 1e30, job.state.params)))
  config = CONFIGS['sft']()
  config.limits.skipped, config.num_steps = 3, 2
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(binding, 'build', lambda config: spoilt)
    train.run(config, tmp_path)
    config.num_steps = 4
    with pytest.raises(alarms.Halt, match='step 3: an update was skipped'):
      train.run(config, tmp_path)


def test_a_batch_in_which_nothing_counts_ends_the_run(tmp_path):
  job = job_of('sft')

  def empty(*args):
    state, batch, data = job.source.next(*args)
    return state, batch._replace(mask=jnp.zeros_like(batch.mask)), data

  with pytest.raises(alarms.Halt, match='step 1: no token of the batch'):
    run('sft', tmp_path, job._replace(source=Source(job.source.init, empty)))
  assert seal.steps(tmp_path) == [0]


@pytest.mark.parametrize('where, left', [('step', 3), ('rollout', 2)])
def test_a_run_that_was_taken_away_ends_as_one_that_was_not(
    whole, tmp_path, where, left):
  """SIGTERM in its third step, which no save is due after, or on its way."""
  kind, run_dir, state = whole
  source, calls = built(kind).source, []

  def struck(*args):
    calls.append(1)
    due = len(calls) == 4  # the first is the check's
    if due and where == 'rollout':
      os.kill(os.getpid(), signal.SIGTERM)
      pulse.beat()
    found = source.next(*args)
    if due:
      os.kill(os.getpid(), signal.SIGTERM)
    return found

  with pytest.raises(preemption.Preempted):
    run(kind, tmp_path, job_of(kind, source=Source(source.init, struck)))
  assert seal.steps(tmp_path)[-1] == left
  again = run(kind, tmp_path, job_of(kind))
  assert bits(again) == bits(state)
  assert rows_of(tmp_path) == rows_of(run_dir)
