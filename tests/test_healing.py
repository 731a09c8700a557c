"""rlft heal: edited weights against float64, and directories left whole."""
import hashlib
import json
import os
import pathlib
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import transformers

import rlft
from rlft import config as door
from rlft import healing, main, weights
from rlft.analyses import restoration
from rlft.checkpoints import header
from rlft.healing import matrix
from rlft.spectral import in_place
from rlft.training import checkpoint
from tests import llama, tiny
from tests.command import refused

WEIGHTS = llama.tensors()
AFTER = llama.moved(WEIGHTS, .05)
BF16 = ml_dtypes.bfloat16
EDITED = [f'model.layers.0.{name}.weight' for name in llama.SHAPES]


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
  folder = tmp_path_factory.mktemp('pair')
  return [str(llama.write(folder / name, tensors, shards=3)) for name, tensors
          in (('before', WEIGHTS), ('after', AFTER))]


@pytest.fixture(scope='module')
def narrow(tmp_path_factory):
  """The same in bfloat16, in one file."""
  folder = tmp_path_factory.mktemp('narrow')
  return [str(llama.write(folder / name, tensors, dtype=BF16)) for name, tensors
          in (('before', WEIGHTS), ('after', AFTER))]


def loaded(folder):
  found = {}
  for path in pathlib.Path(folder).glob('*.safetensors'):
    found |= safetensors.numpy.load_file(path)
  return found


# The formulas once more, in numpy and float64.

def factors(w):
  return np.linalg.svd(np.asarray(w, np.float64), full_matrices=False)


def polar(x):
  u, _, vt = np.linalg.svd(x, full_matrices=False)
  return u @ vt


def vectors(after, before, top, orthonormal=True):
  """The leading directions of `before` with the values of `after`."""
  (u, s, vt), (u0, _, vt0) = factors(after), factors(before)
  k = round(top * s.size)
  u = np.concatenate([u0[:, :k], u[:, k:]], axis=1)
  v = np.concatenate([vt0[:k], vt[k:]]).T
  if orthonormal:
    u, v = polar(u), polar(v)
  return u * s @ v.T


def values(after, before):
  (u, _, vt), (_, s0, _) = factors(after), factors(before)
  return u * s0 @ vt


def low_rank(after, before, top):
  u, s, vt = factors(np.asarray(after, np.float64) - before)
  k = round(top * s.size)
  return after - u[:, :k] * s[:k] @ vt[:k]


EDITS = {
    'vectors by count': (
        ['--top_count=8'], lambda a, b: vectors(a, b, 8 / min(a.shape))),
    'vectors': (['--top=0.25'], lambda a, b: vectors(a, b, .25)),
    'vectors as published': (
        ['--top=0.25', '--polar=false'],
        lambda a, b: vectors(a, b, .25, False)),
    'values': ([], values),
    'triplets': (['--top=1'], lambda a, b: b),
    'low_rank': (['--top=0.5'], lambda a, b: low_rank(a, b, .5)),
    'interpolate': (['--amount=0.25'], lambda a, b: .75 * a + .25 * b),
    'revert': ([], lambda a, b: b)}


@pytest.mark.parametrize('edit', EDITS)
def test_edits_are_those_of_the_formulas(pair, tmp_path, edit):
  """In the first quarter of the layers; all else stays to the bit."""
  flags, formula = EDITS[edit]
  out = tmp_path / 'deep' / 'healed'
  assert main.main(['heal', *pair, f'--out={out}', '--layers=0:0.25',
                    f'--edit={edit.split()[0]}', '--select=q_proj|o_proj',
                    *flags]) == 0
  found = loaded(out)
  assert set(found) == set(AFTER)
  for name, array in AFTER.items():
    if '.0.' in name and ('q_proj' in name or 'o_proj' in name):
      wanted = formula(array, WEIGHTS[name])
      assert np.linalg.norm(found[name] - wanted) < 2e-6 * np.linalg.norm(
          wanted), name
      assert not np.array_equal(found[name], array)
    else:
      np.testing.assert_array_equal(found[name], array)


def test_noise_is_as_long_as_it_says_and_differs_by_matrix(pair, tmp_path):
  rlft.heal(*pair, tmp_path / 'a', edit='noise', amount=.5, select='q_proj')
  rlft.heal(*pair, tmp_path / 'b', edit='noise', amount=.5, select='q_proj',
            seed=1)
  one, two = loaded(tmp_path / 'a'), loaded(tmp_path / 'b')
  steps = []
  for name in (k for k in AFTER if 'q_proj' in k):
    step = one[name] - AFTER[name]
    whole = np.linalg.norm(AFTER[name] - WEIGHTS[name])
    assert np.linalg.norm(step) == pytest.approx(.5 * whole, rel=1e-4)
    assert not np.array_equal(one[name], two[name])
    steps.append(step.ravel() / np.linalg.norm(step))
  others = np.array(steps) @ np.array(steps).T - np.eye(4)
  assert np.abs(others).max() < .2  # unrelated


def test_the_layout_stays(pair, tmp_path):
  """Headers, index and everything beside the weights, byte for byte."""
  after = pathlib.Path(pair[1])
  (after / 'pytorch_model.bin').write_bytes(b'pickle')
  (after / 'pytorch_model.bin.index.json').write_text('{}')
  (after / 'training_args.pt').write_bytes(b'pickle')
  rlft.heal(*pair, tmp_path / 'out', edit='interpolate', amount=1)
  kept = {p.name for p in after.iterdir() if p.suffix not in ('.bin', '.pt')}
  kept -= {'pytorch_model.bin.index.json'}
  assert {p.name for p in (tmp_path / 'out').iterdir()} == kept | {'heal.json'}
  for name in kept:
    one, other = ((x / name).read_bytes() for x in (after, tmp_path / 'out'))
    if not name.endswith('.safetensors'):
      assert one == other
      continue
    head = header.read(after / name)
    assert head == header.read(tmp_path / 'out' / name)
    assert one[:head.size] == other[:head.size] and one != other
  for name in llama.SHAPES:
    key = f'model.layers.3.{name}.weight'
    np.testing.assert_allclose(
        loaded(tmp_path / 'out')[key], WEIGHTS[key], atol=1e-6)


def test_other_dtypes_pass_through(tmp_path):
  """Counters and buffers beside the weights."""
  folders = []
  for name, weight in (('a', WEIGHTS), ('b', AFTER)):
    folders.append(tmp_path / name)
    folders[-1].mkdir()
    safetensors.numpy.save_file(
        {'l.0.q_proj.weight': weight[EDITED[0]], 'ids': np.arange(5),
         'step': np.array(3.5), 'mask': np.array([True, False])},
        folders[-1] / 'model.safetensors')
  rlft.heal(*folders, tmp_path / 'out', edit='revert')
  found = loaded(tmp_path / 'out')
  np.testing.assert_array_equal(
      found.pop('l.0.q_proj.weight'), WEIGHTS[EDITED[0]])
  for name, array in loaded(folders[1]).items():
    if name in found:
      assert array.dtype == found[name].dtype
      np.testing.assert_array_equal(array, found[name])
  assert set(found) == {'ids', 'step', 'mask'}


def test_what_rounding_undid_is_told(narrow, tmp_path, capfd):
  """Against the numpy formula on the same bfloat16 weights."""
  out = tmp_path / 'out'
  assert main.main(['heal', *narrow, f'--out={out}', '--edit=interpolate',
                    '--amount=0.05']) == 0
  edit2 = lost2 = stayed = meant = 0
  stored, old = loaded(out), loaded(narrow[0])
  for name, array in loaded(narrow[1]).items():
    assert stored[name].dtype == BF16
    if 'proj' not in name:
      np.testing.assert_array_equal(stored[name], array)
      continue
    after, before = (x.astype(np.float64) for x in (array, old[name]))
    exact = after + .05 * (before - after)
    edit2 += np.sum((exact - after)**2)
    lost2 += np.sum((stored[name].astype(np.float64) - exact)**2)
    stayed += np.sum((stored[name] == array) & (exact != after))
    meant += np.sum(exact != after)
  told = json.loads((out / 'heal.json').read_text())['rounding']
  assert told['undone'] == pytest.approx(np.sqrt(lost2 / edit2), rel=1e-3)
  assert told['unchanged'] == pytest.approx(stayed / meant, abs=2e-3)
  assert .05 < told['unchanged'] < .5 and .05 < told['undone'] < .5
  said = capfd.readouterr().out
  assert f'rounding to BF16 moved them by {100 * told["undone"]:.2g} %' in said


def test_nothing_is_lost_in_float32(pair, tmp_path, capfd):
  found = rlft.heal(*pair, tmp_path / 'out', edit='vectors', select='q_proj')
  assert found['rounding']['undone'] == 0
  assert len(found['tensors']) == 4
  row = found['tensors'][0]
  name = row['tensor']
  healed = loaded(tmp_path / 'out')[name].astype(np.float64)
  for key, wanted in (('edit_norm', AFTER[name]), ('weight_norm', 2 * healed)):
    assert row[key] == pytest.approx(
        np.linalg.norm(healed - wanted), rel=1e-4)


def test_a_dry_run_lists_and_writes_nothing(pair, tmp_path, capfd):
  out = tmp_path / 'out'
  for flag in ('--dry_run', '--dry_run=true'):
    assert main.main(
        ['heal', *pair, f'--out={out}', '--layers=0:0.25', flag]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == EDITED
    assert lines[-1].startswith('would edit 7 tensors of 7680 numbers')
  assert not list(tmp_path.iterdir())


def test_transformers_reads_what_was_written(narrow, tmp_path):
  rlft.heal(*narrow, tmp_path / 'out', edit='revert')
  config = transformers.AutoConfig.from_pretrained(tmp_path / 'out')
  assert config.model_type == 'llama' and config.num_hidden_layers == 4
  words = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
  assert words('yes no')['input_ids'] == [3, 4]


def test_logits_are_those_of_the_edited_weights(pair, tmp_path):
  torch = pytest.importorskip(
      'torch', reason='torch is not installed: logits are not compared')
  out = tmp_path / 'out'
  rlft.heal(*pair, out, edit='vectors', top=.25)
  # In float64, so that what differs is the weights.
  model, wanted, plain = (
      transformers.AutoModelForCausalLM.from_pretrained(x).double()
      for x in (out, pair[1], pair[1]))
  wanted.load_state_dict({
      k: torch.tensor(vectors(v, WEIGHTS[k], .25) if '_proj' in k else v)
      for k, v in AFTER.items()})
  tokens = torch.arange(24).reshape(2, 12)
  with torch.no_grad():
    off, moved = (float((x(tokens).logits - wanted(tokens).logits).abs().max())
                  for x in (model, plain))
  print(f'\nlogits off by {off:.1e}, moved by {moved:.1e}')
  assert off < 1e-4 < 1e-2 < moved


@pytest.mark.parametrize('flags, complaint', [
    (['--edit=vector'], "no kind 'vector' of edit; known: none, values"),
    (['--edit=vectors', '--amount=1'], 'vectors takes no --amount; known: --t'),
    (['--edit=interpolate'], 'interpolate needs an amount'),
    (['--edit='], '--edit=... is missing'),
    (['--top_count=33'], 'top_count=33 of a matrix with'),
    (['--top_count=2', '--top_count=3'], '--top_count is given twice'),
    (['--seed=4294967296'], 'is not between 0 and 2^32'),
    (['--edit=interpolate', '--distance=1'], 'takes no --distance'),
    (['--edit=interpolate', '--amount=2'], 'is not between 0'),
    (['--edit=interpolate', '--amount=nan'], '--amount=nan: give a number'),
    (['--edit=vectors', '--top=much'], '--top=much: give a number'),
    (['--edit=vectors', '--top=0.7', '--tail=0.7'], 'overlap'),
    (['--edit=vectors', '--polar=no'], '--polar=no: write true or false'),
    (['--edit=vectors', '--layers=3'], 'write LOW:HIGH'),
    (['--edit=vectors', '--layers=0.5:0.2'], 'no range of fractions'),
    (['--edit=vectors', '--layers=0.1:0.2'], 'holds none of 4 layers'),
    (['--edit=vectors', '--modules=query'], 'no module query; known: down'),
    (['--edit=revert', '--select=lm_head', '--layers=0:1'], 'no selected'),
    (['--edit=revert', '--select=norm'], 'no matrix of'),
    (['--edit=revert', '--dry_run=maybe'], 'write true or false'),
    (['--edit=revert', '--zebra=1'], 'revert takes no --zebra')])
def test_an_edit_that_makes_no_sense_leaves_nothing(
    pair, tmp_path, capfd, flags, complaint):
  line = refused(['heal', *pair, f'--out={tmp_path / "o"}', *flags], capfd)
  assert complaint in line
  assert not list(tmp_path.iterdir())


NAN = 'model.layers.3.mlp.down_proj.weight'


@pytest.mark.parametrize('edit', ['vectors', 'interpolate', 'revert'])
@pytest.mark.parametrize('poisoned', [0, 1])
def test_nan_is_named_and_nothing_is_left(
    pair, tmp_path, capfd, edit, poisoned):
  found = dict((WEIGHTS, AFTER)[poisoned])
  found[NAN] = np.where(np.arange(48) == 7, np.nan, found[NAN]).astype('f4')
  paths = list(pair)
  paths[poisoned] = str(llama.write(tmp_path / 'm', found, shards=3))
  amount = ['--amount=0.5'] * (edit == 'interpolate')
  line = refused(
      ['heal', *paths, f'--out={tmp_path / "o"}', f'--edit={edit}',
       '--modules=down_proj', *amount], capfd)
  assert f'{NAN} holds NaN' in line and paths[poisoned] in line
  assert [p.name for p in tmp_path.iterdir()] == ['m']


def test_what_does_not_fit_the_dtype_is_refused(tmp_path, capfd):
  huge = {'l.0.up_proj.weight': np.diag([6e4, 1, 1, 1])}
  turned = {'l.0.up_proj.weight': np.diag([1, 1, 1, 6e4])}
  pair = [str(llama.write(tmp_path / n, x, dtype=np.float16))
          for n, x in (('a', huge), ('b', turned))]
  line = refused(['heal', *pair, f'--out={tmp_path / "o"}', '--edit=noise',
                  '--amount=5'], capfd)
  assert 'does not fit into F16' in line
  assert sorted(p.name for p in tmp_path.iterdir()) == ['a', 'b']


def test_a_decomposition_that_fails_is_told(
    pair, tmp_path, monkeypatch, capfd):
  """LAPACK's failures come as NaN."""
  decompose = in_place.decompose
  monkeypatch.setattr(in_place, 'decompose', lambda *x, **y: jax.tree.map(
      lambda z: z * np.nan, decompose(*x, **y)))
  line = refused(['heal', *pair, f'--out={tmp_path / "o"}', '--edit=values',
                  '--select=0.*q_proj'], capfd)
  assert 'q_proj.weight is not finite: a decomposition did not' in line
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('place', ['file', 'folder', 'link'])
def test_what_is_there_already_is_left_alone(pair, tmp_path, capfd, place):
  out = tmp_path / 'out'
  if place == 'file':
    out.write_text('x')
  elif place == 'folder':
    out.mkdir()
  else:
    os.symlink(tmp_path / 'nowhere', out)
  line = refused(['heal', *pair, f'--out={out}', '--edit=revert'], capfd)
  assert 'is there already: choose another --out' in line
  assert [p.name for p in tmp_path.iterdir()] == ['out']


def test_an_interruption_leaves_nothing(pair, tmp_path, monkeypatch):
  def interrupted(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(healing, 'rounding', interrupted)
  with pytest.raises(KeyboardInterrupt):
    rlft.heal(*pair, tmp_path / 'deep' / 'out', edit='revert')
  assert not list(tmp_path.iterdir())


SLOW = '''
import sys, time
from rlft import healing, main
healing._edited = lambda *_: (print('begun', flush=True), time.sleep(60))
sys.exit(main.main(sys.argv[1:]))
'''


def test_sigterm_leaves_nothing(pair, tmp_path):
  with subprocess.Popen(
      [sys.executable, '-c', SLOW, 'heal', *pair, f'--out={tmp_path / "o"}'],
      stdout=subprocess.PIPE, text=True,
      env=os.environ | {'JAX_PLATFORMS': 'cpu'}) as command:
    assert command.stdout.readline() == 'begun\n'
    assert [p.name for p in tmp_path.iterdir()] == [
        f'.o.unfinished-{command.pid}']
    command.terminate()
  assert command.returncode == 143
  assert not list(tmp_path.iterdir())


def test_the_same_weights_change_nothing(pair, tmp_path, capfd):
  rlft.heal(pair[1], pair[1], tmp_path / 'out', edit='vectors')
  assert 'changes nothing' in capfd.readouterr().err
  for name in ('model-00001-of-00003', 'model-00003-of-00003'):
    one, other = (hashlib.sha256((
        pathlib.Path(x) / f'{name}.safetensors').read_bytes()).digest()
        for x in (pair[1], tmp_path / 'out'))
    assert one == other


def test_a_stack_of_experts_is_edited_one_by_one(tmp_path):
  rng = np.random.default_rng(0)
  old, new = rng.normal(size=(2, 3, 32, 32)).astype(np.float32)
  pair = [str(llama.write(tmp_path / n, {'l.0.experts.up_proj': x, 'z': x[0]}))
          for n, x in (('a', old), ('b', new))]
  rlft.heal(*pair, tmp_path / 'out', edit='vectors', top=.25)
  found = loaded(tmp_path / 'out')
  for i in range(3):
    wanted = vectors(new[i], old[i], .25)
    np.testing.assert_allclose(
        found['l.0.experts.up_proj'][i], wanted, atol=3e-5)
  np.testing.assert_array_equal(found['z'], new[0])


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Two runs of a tiny model, the second with a critic."""
  folder = tmp_path_factory.mktemp('runs')
  base = tiny.initialised()
  for name, params in (('before', base), ('after', tiny.noised(base, .05))):
    (folder / name).mkdir()
    (folder / name / 'config.json').write_text(
        door.to_json(tiny.sft_config()))
    checkpoint.save_params(folder / name, 4, params)
  return [f'{folder / name}@4' for name in ('before', 'after')]


def test_of_a_run_a_run_is_written(runs, tmp_path, capfd):
  out = tmp_path / 'out'
  assert main.main(['heal', *runs, f'--out={out}', '--edit=revert',
                    '--layers=0:0.5', '--modules=query']) == 0
  assert sorted(p.name for p in out.iterdir()) == [
      'checkpoints', 'config.json', 'heal.json']
  before, after, found = (weights.flatten(weights.load(name)['policy'])
                          for name in (*runs, f'{out}@last'))
  for path, array in found.items():
    half = len(array) // 2
    if 'query' in path:
      np.testing.assert_array_equal(array[:half], before[path][:half])
      np.testing.assert_array_equal(array[half:], after[path][half:])
      assert not np.array_equal(array[:half], after[path][:half])
    else:
      np.testing.assert_array_equal(array, after[path])
  capfd.readouterr()
  assert main.main(['eval', f'{out}@4', '--config.evals.ood.n=2',
                    '--config.evals.id.n=2']) == 0
  assert len(capfd.readouterr().out.splitlines()) == 2


def test_a_healed_run_is_a_start_but_cannot_go_on(runs, tmp_path):
  out = tmp_path / 'out'
  rlft.heal(*runs, out, edit='interpolate', amount=1)
  config = tiny.sft_config(0)
  config.evals, config.init = {}, f'{out}@4'
  rlft.run(config, tmp_path / 'next')
  one, other = (weights.flatten(weights.load(name)['policy'])
                for name in (f'{tmp_path / "next"}@0', runs[0]))
  for path, array in one.items():
    if 'query' in path:
      np.testing.assert_allclose(array, other[path], atol=1e-6)
  own = door.from_dict(json.loads((out / 'config.json').read_text()))
  (out / 'config.json').write_text(door.to_json(own))
  with pytest.raises(ValueError, match='parameters only, so this run cannot'):
    rlft.run(own, out)


def test_an_asset_becomes_a_run(tmp_path):
  name = 'asset:points24_nano'
  rlft.heal(name, name, tmp_path / 'out', edit='none')
  found = weights.load(f'{tmp_path / "out"}@{weights.step_of(name)}')
  same = weights.flatten(weights.load(name))
  for path, array in weights.flatten(found).items():
    np.testing.assert_array_equal(array, same[path])
  assert weights.config_of(f'{tmp_path / "out"}@last')['tokenizer']


SHAPE = (2, 12, 20)


@pytest.mark.parametrize('entry', [
    dict(kind='values'), dict(kind='vectors'), dict(kind='vectors', top=.75),
    dict(kind='triplets', polar=False), dict(kind='low_rank'),
    dict(kind='low_rank', top=.75), dict(kind='interpolate', amount=.3),
    dict(kind='noise', amount=.5), dict(kind='revert'),
    dict(kind='vectors', reference=True),
    dict(kind='vectors', layers=(0, .5)), dict(kind='revert', layers=(.5, 1))])
@pytest.mark.parametrize('shape', [SHAPE, (2, 20, 12)])
def test_a_matrix_alone_is_a_sweep_of_one(entry, shape):
  rng = np.random.default_rng(0)
  before, update = rng.normal(size=(2, *shape)).astype(np.float32)
  after = before + np.float32(.3) * update
  trees = [{'layers': {'w': {'kernel': x}}} for x in (before, after)]
  wanted, = restoration.edits(*trees, sweep=[entry], seed=3, select='w')
  found = matrix.edited(
      lambda: before, lambda: after, entry, path='layers/w/kernel', seed=3,
      shape=shape)
  np.testing.assert_allclose(
      found, wanted.params['layers']['w']['kernel'], atol=2e-5)
  assert not np.array_equal(found, after)
