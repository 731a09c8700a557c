"""Every second of a run is of one phase; by a clock that only work moves."""
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft import binding, evaluate, ledger, train
from rlft.training import metrics, saving
from rlft.types import Batch, Source, TrainState
from tests import tiny


@pytest.fixture
def work(monkeypatch):
  """work(seconds) moves the only clock that the ledger sees."""
  now = [100.0]

  def spend(seconds):
    now[0] += seconds

  monkeypatch.setattr(
      ledger, 'time', types.SimpleNamespace(monotonic=lambda: now[0]))
  return spend


def test_every_moment_is_of_one_phase(work):
  clock = ledger.Clock()
  work(1)
  clock.lap('data')
  work(2)
  clock.lap('update')
  work(4)
  clock.lap('data')
  assert clock.flush() == {'data_seconds': 5, 'update_seconds': 2}
  assert clock.wall() == 7
  work(8)
  clock.lap('save')
  assert clock.flush() == {'save_seconds': 8} and clock.wall() == 8


def test_what_a_part_tells_is_booked_where_it_says(work):
  clock, own = ledger.Clock(), ledger.Clock()
  work(3)
  own.lap('reward')
  work(1)
  clock.lap('rollout', {'tokens': 9, **own.flush()})
  spent = clock.flush()
  assert spent == {'reward_seconds': 3, 'rollout_seconds': 1}
  assert ledger.worked(spent | {'save_seconds': 99}) == 4


def state_of(step=0):
  return TrainState(jnp.asarray(step), {'policy': {'w': jnp.ones(2)}}, (),
                    jax.random.key(0))


def job_of(work, **changes):
  """One that does nothing, in 2, 3, 5 and 1 seconds, and updates in 13."""
  batch = Batch(np.zeros((2, 4), np.int32), np.ones((2, 4), bool))

  def next_batch(state, params, seen, key):
    clock = ledger.Clock()
    for phase, seconds in (('rollout', 2), ('reward', 3), ('log_prob', 5)):
      work(seconds)
      clock.lap(phase)
    work(1)
    return state, batch, {
        'tokens': 6, 'sampler_gap': 0.0, 'sampler_gap_mean': 0.0,
        'kl_k1': 0.5, 'reference_gap': 0.5, **clock.flush()}

  def update(state, batch):
    work(13)
    return state._replace(step=state.step + 1), {'loss': jnp.zeros(())}

  def score(params):
    work(7)
    return {'eval': 'id'}, []

  return binding.Job(**dict(
      state=state_of(), source=Source(lambda: 0, next_batch), update=update,
      evaluations=[evaluate.Evaluation('id', score, frozenset())],
      analyses=[], online=True, probe=lambda params, batch: {},
      reference={'policy': {'w': jnp.ones(2)}}) | changes)


@pytest.fixture
def loop(work, monkeypatch, tmp_path):
  """loop(job, at) runs four steps, saved in 11 seconds; gives the rows."""

  class Saver:
    def __init__(self, manager, *, keep):
      pass

    def save(self, *_):
      work(11)

    def finish(self):
      pass

  monkeypatch.setattr(saving, 'Saver', Saver)
  config = tiny.sft_config()
  config.log.every = 2

  def run(job, at):
    train.loop(config, tmp_path, job, None, at, lambda: None)
    return metrics.read(tmp_path / 'metrics.jsonl')

  return run


def test_the_phases_of_a_run(work, loop):
  """Rows 1, 2 and 4; evaluated and saved before 1, and between 2 and 4."""
  job = job_of(work)
  rows = loop(job, train.Position(job.state, 0))
  found = [{k.removesuffix('_seconds'): v for k, v in row.items()
            if k.endswith('_seconds') and v} for row in rows]
  step = dict(rollout=3, reward=3, log_prob=5, update=13)
  beside = dict(evaluate=7, save=11)
  assert found == [
      {**step, **beside, 'wall': 42}, {**step, 'wall': 24},
      {**{k: 2 * v for k, v in step.items()}, **beside, 'wall': 66}]
  assert [row['tokens_per_second'] for row in rows] == [.25, .25, .25]
  assert [row['padding'] for row in rows] == [.25, .25, .25]


def test_the_phase_of_demonstrations_is_data(work, loop):
  job = job_of(work)
  plain = lambda *args: (0, job.source.next(*args)[1], {'tokens': 6})
  rows = loop(job._replace(online=False, source=Source(lambda: 0, plain)),
              train.Position(job.state, 0))
  assert rows[1]['data_seconds'] == 11 and 'rollout_seconds' not in rows[1]


@pytest.mark.parametrize('ratio', [1.0, 1.01])
def test_a_run_that_goes_on_is_on_policy_at_first(work, loop, ratio, capfd):
  """Its KL to the reference is not 0 any more; its first ratio still is 1.

  It is told if not, and goes on, as it would have without the interruption.
  """
  job = job_of(work)
  step = job.update
  job = job._replace(update=lambda *given: (
      step(*given)[0], step(*given)[1] | {'first_ratio_max': ratio}))
  at = train.Position(state_of(3), 0, resumed=True)
  assert [row['step'] for row in loop(job, at)] == [4]
  told = 'warning: the first ratio is not 1 at step 3' in capfd.readouterr().err
  assert told == (ratio != 1)


def test_a_run_goes_on_with_the_reference_that_it_began_with(work):
  config, job = tiny.rl_config(), job_of(work)
  config.init = 'somewhere@last'
  meta = {'reference': train.reference_mark(config, job)}
  other = job._replace(reference={'policy': {'w': jnp.zeros(2)}})
  train.same_reference(config, job, meta)
  train.same_reference(config, other, {})  # an older checkpoint
  with pytest.raises(ValueError, match='somewhere@last is not what it was'):
    train.same_reference(config, other, meta)
  config.init = ''  # the seed's, which other devices may round otherwise
  assert train.reference_mark(config, job) == ''
