"""Analyses in the loop: live, sharded parameters against saved checkpoints."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import rlft
from rlft import binding, observe, train
from rlft.analyses import rotation
from rlft.spectral import bases
from rlft.training import checkpoint, metrics, seal
from rlft.types import Experience, Rollout, Source
from tests import tiny

CONFIGS = {'sft': tiny.sft_config, 'rl': tiny.rl_config}
WHAT = dict(select=r'(query|out)/kernel$', draws=1, top=0.1)


@functools.cache
def config_of(kind):
  """Three steps, looked at after the second and the last; all are saved."""
  config = CONFIGS[kind](3)
  config.analyses = dict(rotation=dict(every=2, **WHAT))
  config.evals, config.evaluate.every = {}, 0
  config.checkpoint.every, config.log.every = 1, 3
  if kind == 'rl':
    del config.passes['epochs'], config.passes['minibatches']
    config.critic = False  # compiles in half the time
  return config


@functools.cache
def mesh():
  return Mesh(np.array(jax.devices()).reshape(2, 2, 2),
              ('data', 'fsdp', 'tensor'))


def placed(tree):
  """Matrices cut along both of their axes, everything else on all devices."""
  cut = lambda x: 'fsdp' if x % 2 == 0 else None
  spec = lambda x: PartitionSpec(
      *[None] * (x.ndim - 2), cut(x.shape[-2]),
      'tensor' if x.shape[-1] % 2 == 0 else None) if (
          x.ndim > 1) else PartitionSpec()
  return jax.tree.map(
      lambda x: jax.device_put(x, NamedSharding(mesh(), spec(x))), tree)


@functools.cache
def built(kind):
  job = binding.build(config_of(kind))
  if kind == 'rl':  # sampling is no part of this
    source = Source(lambda: 0, lambda *_: (0, made_up(), {'tokens': 96}))
    job = job._replace(source=source, online=False)
  return job


def made_up():
  """Experience that nobody had."""
  rng = np.random.default_rng(0)
  shape = 8, 12
  number = lambda: jnp.asarray(rng.normal(size=shape), jnp.float32)
  tokens = jnp.asarray(rng.integers(3, 20, size=shape), jnp.int32)
  mask = jnp.ones(shape, bool)
  turns = jnp.zeros(shape, jnp.int32)
  return Experience(
      Rollout(tokens, mask, turns, number(), jnp.arange(8), -3 + number() / 9,
              -3 + number() / 9, number(), jnp.ones(shape), -3 + number() / 9,
              jnp.zeros(8, bool)), number(), number())


def job_of(kind, **changes):
  state = placed(jax.tree.map(jnp.copy, built(kind).state))
  return built(kind)._replace(**{'state': state} | changes)


def run(job, kind, run_dir):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(binding, 'build', lambda config: job)
    return train.run(config_of(kind), run_dir)


def rows_of(run_dir):
  return metrics.read(run_dir / 'analyses' / 'rotation.jsonl')


@pytest.fixture(scope='module', params=['sft', 'rl'])
def whole(request, tmp_path_factory):
  """(kind, directory, shapes that came to the host in the analyses)."""
  run_dir, fetched = tmp_path_factory.mktemp(request.param), []
  arrays = type(jnp.ones(1))
  value = arrays._value

  def watch(x):
    fetched.append(x.shape)
    return value.fget(x)

  def watched(base, policy):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(arrays, '_value', property(watch))
      np.asarray(placed(jnp.ones((5, 5))))  # that the watch is not blind
      return analysis.rows(base, policy)

  analysis, = built(request.param).analyses
  job = job_of(request.param, analyses=[analysis._replace(rows=watched)])
  run(job, request.param, run_dir)
  return request.param, run_dir, fetched


def test_live_rows_are_those_of_the_saved_checkpoints(whole):
  _, run_dir, _ = whole
  rows = rows_of(run_dir)
  assert [row['step'] for row in rows] == [2] * 4 + [3] * 4
  for step in (2, 3):
    saved = rlft.compare(f'{run_dir}@0', f'{run_dir}@{step}', **WHAT)['rows']
    live = [row for row in rows if row['step'] == step]
    for mine, theirs in zip(live, saved, strict=True):
      assert mine.keys() == {'step', *theirs}
      for name, found in theirs.items():
        if name == 'exceeds_energy_outside':
          continue  # nothing is outside a whole basis: rounding decides
        if isinstance(found, float):
          found = pytest.approx(found, rel=1e-4, abs=1e-6)
        assert mine[name] == found, name
    assert all(row['update_norm'] > 1e-3 for row in live)


def test_the_parameters_stay_where_they_are(whole):
  _, _, fetched = whole
  assert fetched.count((5, 5)) == 2
  matrices = {x.shape[-2:] for x in jax.tree.leaves(
      tiny.initialised()['policy']) if x.ndim > 1}
  assert not [x for x in fetched if x[-2:] in matrices]


def test_its_cost_stands_beside_its_step(whole):
  """A row for its step even where none is due, without a compilation."""
  _, run_dir, _ = whole
  logged = {row['step']: row for row in metrics.read(
      run_dir / 'metrics.jsonl')}
  assert list(logged) == [1, 2, 3]
  assert 'rotation_seconds' not in logged[1]
  assert logged[2]['rotation_seconds'] > 0 < logged[3]['rotation_seconds']
  assert logged[2]['compilations'] == logged[3]['compilations']


def moved(base, policy):
  """How far three matrices are from the base, as an analysis would say it."""
  return [{'layer': 0, 'norm': float(jnp.linalg.norm(x - y))}
          for x, y in zip(*(jax.tree.leaves(t)[:3] for t in (base, policy)),
                          strict=True)]


@pytest.mark.parametrize('call, begun', [(2, [0, 1]), (3, [0, 1, 2])])
def test_a_run_that_was_stopped_has_every_row_once(tmp_path, call, begun):
  """Stopped in its second and third step, with a torn last row."""
  source, calls = built('sft').source, []
  analyses = [built('sft').analyses[0]._replace(rows=moved)]

  def next_batch(*args):
    calls.append(1)
    if len(calls) == 1 + call:  # the first is the check's
      raise KeyboardInterrupt
    return source.next(*args)

  with pytest.raises(KeyboardInterrupt):
    run(job_of('sft', analyses=analyses,
               source=Source(source.init, next_batch)), 'sft', tmp_path)
  assert seal.steps(tmp_path) == begun
  folder = tmp_path / 'analyses'
  folder.mkdir(exist_ok=True)
  with (folder / 'rotation.jsonl').open('a') as file:
    file.write('{"step": 3, "layer": 0}\n{"step": 3, "la')
  # Begun again from other parameters: the base is still the run's step 0.
  other = placed(tiny.noised(built('sft').state.params, 0.1))
  run(job_of('sft', analyses=analyses, state=job_of('sft').state._replace(
      params=other)), 'sft', tmp_path)
  saved = [checkpoint.load_params(f'{tmp_path}@{step}')['policy']
           for step in (0, 2, 3)]
  for row, want in zip(
      rows_of(tmp_path), [{'step': step, **row} for step, policy in zip(
          (2, 3), saved[1:], strict=True) for row in moved(saved[0], policy)],
      strict=True):
    assert row == pytest.approx(want, rel=1e-5)


def test_the_base_is_a_copy_on_the_same_devices(tmp_path):
  """Step 0 lives on when the state is donated, laid out as it was."""
  job = job_of('sft')
  with checkpoint.open_manager(tmp_path) as manager:
    fresh = train.starting_policy(job, manager)
    checkpoint.save(manager, job.state, 0, {})
    manager.wait_until_finished()
    read = train.starting_policy(job_of('sft', state=job.state._replace(
        params=placed(tiny.initialised(9)))), manager)
    assert train.starting_policy(job._replace(analyses=[]), manager) is None
  for x, y, z in zip(*map(jax.tree.leaves, (
      job.state.params['policy'], fresh, read)), strict=True):
    assert x.sharding == y.sharding == z.sharding
    assert x is not y
    np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(x, z)


def test_a_mesh_may_be_given(monkeypatch):
  params = tiny.initialised()['policy']
  seen = []
  monkeypatch.setattr(rotation, '_over_devices', lambda *given, **_: (
      seen.extend(x for x in given if isinstance(x, Mesh)) or {}))
  for given, mine in ((mesh(), params), (None, placed(params))):
    rotation.analyse({'a': mine, 'b': mine}, before='a', after='b',
                     mesh=given, **WHAT)
  assert seen == [mesh(), mesh()]
  alone, many = (bases.bases(params, WHAT['select'], mesh=given)
                 for given in (None, mesh()))
  for path, factors in alone.items():
    np.testing.assert_allclose(many[path].s, factors.s, rtol=1e-6)
    assert many[path].u.sharding.mesh == mesh()
    assert many[path].u.shape == factors.u.shape
  with pytest.raises(ValueError, match='leave out the cache, or the mesh'):
    bases.bases(params, cache=bases.Cache(), mesh=mesh())
  with pytest.raises(ValueError, match='leave out the cache, or the mesh'):
    rotation.analyse({'a': params, 'b': params}, before='a', after='b',
                     cache=bases.Cache(), mesh=mesh(), **WHAT)


def test_what_is_due_by_hand():
  config = config_of('sft').copy_and_resolve_references()
  config.num_steps = 7
  config.analyses.rotation.steps = (0, 1)
  analysis, = binding.build_analyses(config)
  assert analysis.steps == {1, 2, 4, 6, 7}


def test_a_rehearsal_runs_on_little():
  shapes = jax.eval_shape(lambda: tiny.initialised()['policy'])
  seen = []
  analysis = observe.Analysis(
      'rotation', frozenset(), lambda *pair: seen.append(pair))
  observe.rehearse(analysis, shapes)
  (base, policy), = seen
  assert jax.tree.structure(base) == jax.tree.structure(shapes)
  assert max(max(x.shape) for x in jax.tree.leaves(base)) == 8
  assert not np.array_equal(base['head']['kernel'], policy['head']['kernel'])
