"""`rlft plan` on this machine's own devices, and what it refuses."""
import functools
import json
import math
import re

import jax
import jax.numpy as jnp
import pytest

from rlft import binding, main, planning
from rlft.ops import log_probs, sharding
from rlft.planning import programs, topologies
from tests import tiny
from tests.command import refused

CONFIG = 'tests/faults/runs.py'


def plan(variant, *words):
  return ['plan', f'--config={CONFIG}:{variant}', '--topology=cpu:1', *words]


def test_every_program_of_a_run_is_told(tmp_path, capsys):
  out = tmp_path / 'plan.json'
  assert main.main(plan('rl', f'--out={out}')) == 0
  rows = json.loads(out.read_text())['programs']
  assert [r['name'] for r in rows] == ['ppo', 'score', 'sample', 'spectral']
  for row in rows:
    assert row['hbm_bytes'] > 0 and row['fits'] is True
    assert {'hbm_limit', 'flops', 'model_flops', 'bytes'} <= set(row)
  assert len(capsys.readouterr().out.splitlines()) == 4


def test_what_a_config_leaves_to_its_init_is_planned(capsys):
  assert main.main(plan(
      'sft', '--programs=spectral', '--config.model.preset=',
      '--config.tokenizer=', '--config.init=asset:points24_nano')) == 0
  assert 'spectral' in capsys.readouterr().out


def test_model_operations_are_six_a_parameter_and_token():
  row, = planning.plan(tiny.sft_config(), 'cpu:1', ('sft',))
  config, model = tiny.sft_config(), tiny.model()
  rows, length = config.experience.rows, config.experience.length
  width, layers, hidden = model.width, model.layers, model.hidden
  kernels = layers * (width * width * 3 + 3 * width * hidden)
  linear = 6 * (kernels + width * model.vocabulary) * rows * length
  attention = 3 * layers * 4 * rows * length**2 * width
  assert row['model_flops'] == pytest.approx(linear + attention, rel=.05)


def test_decoding_is_counted_a_token_at_a_time():
  """Six tokens more of every row, after prompts of as many columns."""
  def row(new):
    config, model = tiny.rl_config(), tiny.model()
    config.experience.update(max_new_tokens=new, length=40 + new)
    found, = planning.plan(config, 'cpu:1', ('sample',))
    rows = config.experience.prompts * config.experience.group
    return found, rows, model

  (short, rows, model), (long, *_) = row(6), row(12)
  kernels = model.layers * model.width * (3 * model.width + 3 * model.hidden)
  token = 2 * (kernels + model.width * model.vocabulary)
  more = long['model_flops'] - short['model_flops']
  pairs = 11 * 52 - 5 * 46  # of queries and columns
  pairs *= 4 * model.layers * model.width
  assert more == pytest.approx(rows * (6 * token + pairs), rel=.01)
  assert long['bytes'] > short['bytes'] * 1.2


def test_one_that_does_not_fit_ends_with_3(monkeypatch, capsys):
  small = topologies.Chip(10_000, 1e12, 1e12, 1e12)
  real = topologies.find
  monkeypatch.setattr(
      topologies, 'find', lambda name: real(name)._replace(chip=small))
  assert main.main(plan('sft', '--programs=sft')) == 3
  assert 'DOES NOT FIT' in capsys.readouterr().out


@pytest.mark.parametrize('words, said', [
    (['--topology=v9:2x2'], 'no v9'),
    (['--topology=moon'], 'write v5e:16x16'),
    (['--topology=gpu:8'], 'no gpu'),
    (['--topology=cpu:99'], 'this machine has'),
    (['--programs=dpo'], 'this run has sft, spectral'),
    (['--config.mesh.fsdp=3'], 'there are 1 devices'),
    (['--config.mesh.data=0'], 'whole numbers from 1')])
def test_what_there_is_not_is_one_line(words, said, capfd):
  words = ['plan', f'--config={CONFIG}:sft', *words]
  if not any(w.startswith('--topology') for w in words):
    words.append('--topology=cpu:1')
  assert said in refused(words, capfd)


def test_a_run_on_a_mesh_is_cut_over_it():
  config = tiny.sft_config()
  config.experience.rows = 8
  mesh = sharding.of(jax.devices(), data=2, fsdp=2, tensor=2)
  update, spectral = programs.of(config, mesh)
  state, _ = update.arguments
  up = state.params['policy']['layers']['mlp']['up']['kernel']
  assert up.sharding.spec == jax.P(None, 'fsdp', 'tensor')
  moments = [x for x in jax.tree.leaves(state.opt_state)
             if x.shape == up.shape and x.sharding.spec == up.sharding.spec]
  assert len(moments) >= 2
  with sharding.over(mesh):
    text = spectral.run.lower(*spectral.arguments).compile().as_text()
  assert 'all-gather' not in text


def test_advice_is_one_that_can_be_typed():
  config = tiny.sft_config()
  said = planning.advice({'name': 'sft'}, config)
  assert '--config.model.remat=block' in said and 'mesh.fsdp=-1' in said


def test_one_that_the_compiler_refuses_for_its_size_does_not_fit():
  """As libtpu words it; any other error goes on."""
  at = topologies.Topology('v5e:4x4', 'tpu', [], topologies.CHIPS['v5e'])
  program = programs.Program('sft', None, ())
  said = ('RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory '
          'required for HLO temporaries (40.58G) exceeds available HBM (16G)')
  row = planning._too_large(program, at, RuntimeError(said))
  assert row['fits'] is False and row['hbm_bytes'] == 40.58 * 2**30
  with pytest.raises(RuntimeError, match='INTERNAL'):
    planning._too_large(program, at, RuntimeError('INTERNAL: (4G) exceeds'))


def compiled_update(config, mesh):
  """The text of the compiled update, and what the compiler said."""
  update = programs.of(config, mesh)[0]
  with sharding.over(mesh):
    return update.run.lower(*update.arguments).compile().as_text()


@pytest.mark.parametrize('config', [
    tiny.sft_config, pytest.param(tiny.rl_config, marks=pytest.mark.slow)])
def test_no_compiled_step_has_an_array_of_all_logits(config, monkeypatch):
  """Forward or backward, whole or of one device: only chunks."""
  made = config()
  made.experience.update(length=41)  # which no other dimension is
  if 'passes' in made and 'minibatches' in made.passes:
    made.passes = dict(epochs=1, minibatches=1)
  rows = 4 if made.objective.name == 'sft' else 8
  words = tiny.words().vocabulary
  found, real = {}, log_probs.of_tokens
  for elements in (2**26, rows * words * 5):  # all at once; five columns
    monkeypatch.setattr(
        log_probs, 'of_tokens', functools.partial(real, elements=elements))
    binding.compile_update.cache_clear()
    text = compiled_update(made, None)
    found[elements] = max(
        math.prod(map(int, dims.split(','))) for dims in re.findall(
            r'\[([\d,]+)\]', text) if str(words) in dims.split(','))
  binding.compile_update.cache_clear()
  whole, chunked = found.values()
  assert whole >= rows * 40 * words
  assert chunked <= max(rows * 5 * words, 64 * words)  # or the head itself


@pytest.mark.slow
@pytest.mark.parametrize('sizes', [
    dict(data=1, fsdp=8, tensor=1), dict(data=2, fsdp=2, tensor=2)])
@pytest.mark.parametrize('config', [tiny.sft_config, tiny.rl_config])
def test_nothing_is_made_whole_for_lack_of_a_layout(config, sizes, capfd):
  """The compiler says so where it gathers an array to lay it out anew."""
  made = config()
  made.experience.update({'rows': 8} if 'rows' in made.experience else {
      'prompts': 8, 'group': 2})
  mesh = sharding.of(jax.devices(), **sizes)
  for program in programs.of(made, mesh):
    with sharding.over(mesh):
      program.run.lower(*program.arguments).compile()
  assert 'nvoluntary' not in capfd.readouterr().err


def test_the_compiler_is_heard_when_it_does(capfd):
  """The control of the test above."""
  mesh = jax.make_mesh((2, 4), ('a', 'b'),
                       axis_types=(jax.sharding.AxisType.Auto,) * 2)

  def turned(x):
    for spec in (jax.P('a', None, 'b'), jax.P(None, ('b', 'a'), None)):
      x = jnp.sin(jax.lax.with_sharding_constraint(
          x, jax.NamedSharding(mesh, spec)))
    return x

  jax.jit(turned).lower(jax.ShapeDtypeStruct(
      (8, 8, 8), jnp.float32)).compile()
  assert 'nvoluntary' in capfd.readouterr().err
