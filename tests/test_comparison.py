"""rlft compare: numbers, directories, interruption, memory, and refusals."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import rlft
from rlft import checkpoints, comparison, main
from rlft.analyses import rotation
from rlft.checkpoints import header, names
from rlft.comparison import job
from rlft.spectral import in_place, svd
from tests import llama
from tests.command import refused

# One shape only: what costs in a test is compilation.
SELECT = 'q_proj|o_proj'
OPTIONS = dict(select=SELECT, draws=1)
FLAGS = [f'--select={SELECT}', '--draws=1']
WEIGHTS = llama.tensors()


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
  """Two models, the second a little trained."""
  folder = tmp_path_factory.mktemp('pair')
  return [str(llama.write(folder / name, tensors, shards=2)) for name, tensors
          in (('before', WEIGHTS), ('after', llama.moved(WEIGHTS)))]


@pytest.fixture(scope='module')
def finished(pair, tmp_path_factory):
  """What the command leaves."""
  out = tmp_path_factory.mktemp('out') / 'deep' / 'compared'
  assert main.main(['compare', *pair, f'--out={out}', *FLAGS]) == 0
  return out


def test_what_is_left_in_the_directory(finished):
  assert sorted(p.name for p in finished.iterdir()) == [
      'compare.html', 'rotation.json', 'rotation.npz']
  table = json.loads((finished / 'rotation.json').read_text())
  assert [(r['layer'], r['module']) for r in table['rows']] == [
      (layer, m) for layer in range(4) for m in ('q_proj', 'o_proj')]
  assert table['rows'][0]['tensor'] == 'model.layers.0.self_attn.q_proj.weight'
  assert {r['dtype'] for r in table['compared']} == {'F32'}
  assert table['versions']['rlft'] == rlft.__version__
  assert set(table['inputs']['before']['files']) == {
      'model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'}
  assert set(table['inputs']['after']['tensors']) == set(WEIGHTS)
  assert 'random' in table['null'] or 'Gaussian' in table['null']
  # As they were drawn, and little else.
  assert ['independent random' in x for x in table['warnings']] == [True]


def test_the_command_tells_means_by_module(pair, finished, capfd):
  capfd.readouterr()
  assert main.main(['compare', *pair, f'--out={finished}', *FLAGS]) == 0
  head, *lines, page = capfd.readouterr().out.splitlines()
  assert head.split()[0] == 'module' and page == str(finished / 'compare.html')
  rows = json.loads((finished / 'rotation.json').read_text())['rows']
  for line, module in zip(lines, ('q_proj', 'o_proj'), strict=True):
    some = [r for r in rows if r['module'] == module]
    name, count, *numbers = line.split()
    assert (name, count) == (module, '4')
    assert [float(x) for x in numbers] == pytest.approx([
        scale * np.mean([r[key] for r in some]) for key, scale in (
            ('angle_top_rad', 180 / np.pi), ('angle_null_rad', 180 / np.pi),
            ('value_shift', 100), ('value_shift_null', 100))], abs=6e-4)


def test_rows_are_right(finished):
  """Against singular values by numpy in float64, and plain norms."""
  rows = json.loads((finished / 'rotation.json').read_text())['rows']
  after = llama.moved(WEIGHTS)
  with np.load(finished / 'rotation.npz') as curves:
    found = curves['o_proj/values_after']
    for layer in range(4):
      name = f'model.layers.{layer}.self_attn.o_proj.weight'
      row, = [r for r in rows if r['tensor'] == name]
      change = np.linalg.norm(after[name].astype(float) - WEIGHTS[name])
      assert row['update_norm'] == pytest.approx(change, rel=1e-4)
      np.testing.assert_allclose(found[layer], np.linalg.svd(
          after[name].astype(float), compute_uv=False), rtol=1e-4, atol=1e-6)
  for row in rows:
    assert 0 < row['angle_top_rad'] < np.pi / 2
    assert sum(row[k] for k in (
        'energy_diagonal', 'energy_rotated', 'energy_outside')) == (
            pytest.approx(1, abs=1e-5))


@pytest.mark.parametrize('module', ['k_proj', 'down_proj'])
def test_a_matrix_that_is_not_square_is_measured_as_it_lies(pair, module):
  """Wide and tall: against numpy, and the same matrices as stacks."""
  found = comparison.run(*pair, select=rf'layers\.0\..*{module}', draws=1)
  row, = found['rows']
  after = llama.moved(WEIGHTS)
  stored = [x[row['tensor']] for x in (WEIGHTS, after)]
  np.testing.assert_allclose(
      found['curves'][f'{module}/values_after'][0],
      np.linalg.svd(stored[1].astype(float), compute_uv=False), rtol=1e-4)
  stacks = [{f'layers/{module}/kernel': w.T[None]} for w in stored]
  want, = rotation.analyse(
      dict(zip('ab', stacks, strict=True)), before='a', after='b',
      select='kernel', draws=1)['rows']
  for name in ('angle_top_rad', 'value_shift', 'stable_rank', 'nss'):
    assert row[name] == pytest.approx(want[name], rel=1e-3), name


def test_a_matrix_of_another_layout_is_refused(pair, monkeypatch):
  monkeypatch.setattr(job.tensor, 'shape_of', lambda *_: (16, 32))
  with pytest.raises(ValueError, match=r'is \(32, 16\), not \(16, 32\)'):
    comparison.run(*pair, select=r'layers\.0\..*k_proj', draws=1)


def test_input_and_output_mean_the_same_as_in_a_run(pair):
  """(input, output), where torch's linear layers store (output, input)."""
  name = 'model.layers.0.self_attn.k_proj.weight'
  one = checkpoints.open(pair[0])
  place, = names.places(one.tensors, [name], one.kind)
  np.testing.assert_array_equal(job.load(one, place), WEIGHTS[name].T)


def test_the_function_gives_what_the_command_leaves(pair, finished):
  found = rlft.compare(*pair, **OPTIONS)
  table = json.loads((finished / 'rotation.json').read_text())
  curves = found.pop('curves')
  assert json.loads(json.dumps(found)) == table
  with np.load(finished / 'rotation.npz') as kept:
    assert set(kept.files) == set(curves)
    for name, array in curves.items():
      np.testing.assert_array_equal(kept[name], array)
      assert name == 'top' or len(array) == 4


def contents(folder):
  return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_finished_comparison_is_not_done_again(pair, finished, monkeypatch):
  monkeypatch.setattr(job, 'measure', None)
  before = contents(finished)
  assert main.main(['compare', *pair, f'--out={finished}', *FLAGS]) == 0
  assert contents(finished) == before


def test_an_interrupted_comparison_goes_on(
    pair, finished, tmp_path, monkeypatch, capfd):
  out, measure, done = tmp_path / 'out', job.measure, []

  def failing(the_job, place, folder):
    if len(done) == 5:
      raise KeyboardInterrupt
    done.append(place)
    return measure(the_job, place, folder)

  monkeypatch.setattr(job, 'measure', failing)
  argv = ['compare', *pair, f'--out={out}', *FLAGS]
  assert main.main(argv) == 130
  assert 'the same command goes on' in capfd.readouterr().err
  assert [p.name for p in out.iterdir()] == ['unfinished']
  # The last part was cut off as it was written.
  part = out / 'unfinished' / '000004.npz'
  part.write_bytes(part.read_bytes()[:-40])
  monkeypatch.setattr(job, 'measure', lambda *x: done.append(x[1]) or (
      measure(*x)))
  assert main.main(argv) == 0
  assert len(done) == 9 and done[5] == done[4]  # eight matrices, one of them
  found = contents(out)                         # twice
  assert found.pop('rotation.npz')
  whole = contents(finished)
  assert found == {k: whole[k] for k in found}


@pytest.mark.parametrize('spoil, complaint', [
    (lambda argv, pair: argv.append('--top=0.3'),
     r'settings top was 0\.2 and is 0\.3'),
    (lambda argv, pair: argv.__setitem__(2, str(pair / 'third')),
     r'inputs after files model-00001-of-00002\.safetensors was')])
def test_another_comparison_is_not_mixed_in(
    pair, finished, tmp_path, capfd, spoil, complaint):
  llama.write(tmp_path / 'third', llama.moved(WEIGHTS, seed=9), shards=2)
  argv = ['compare', *pair, f'--out={finished}', *FLAGS]
  spoil(argv, tmp_path)
  before = contents(finished)
  line = refused(argv, capfd)
  assert re.search(complaint, line), line
  assert 'choose another --out' in line
  assert contents(finished) == before


NAN = 'model.layers.1.self_attn.q_proj.weight'


def poisoned():
  found = llama.moved(WEIGHTS)
  found[NAN][3, 4] = np.nan
  return found


@pytest.mark.parametrize('tensors, options, complaint', [
    (poisoned(), {}, f'{NAN} holds NaN or infinity'),
    ({k: v for k, v in WEIGHTS.items() if k != NAN}, {}, f'{NAN} is in'),
    (WEIGHTS | {NAN: np.ones((32, 8), np.float32)}, {}, 'differ in shape'),
    (WEIGHTS, dict(dtype=ml_dtypes.bfloat16), 'differ in dtype'),
    (llama.tensors(tied=True), {}, 'has a head of its own')])
def test_what_cannot_be_compared_leaves_nothing(
    pair, tmp_path, capfd, tensors, options, complaint):
  other = llama.write(tmp_path / 'other', tensors, **options)
  out = tmp_path / 'a' / 'out'
  line = refused(['compare', pair[0], str(other), f'--out={out}', *FLAGS],
                 capfd)
  assert complaint in line
  assert [p.name for p in tmp_path.iterdir()] == ['other']


@pytest.mark.parametrize('argv, complaint', [
    ([], 'compare takes two checkpoints'),
    (['A'], 'compare takes two checkpoints'),
    (['A', 'B', '--config.seed=1'], 'no --config'),
    (['A', 'B'], '--out=... is missing'),
    (['A', 'B', '--out=OUT', '--tpo=1'], 'no flag --tpo'),
    (['A', 'B', '--out=OUT', '--top=0'], 'top=0.0 is a share'),
    (['A', 'B', '--out=OUT', '--top=2'], 'top=2.0 is a share'),
    (['A', 'B', '--out=OUT', '--draws=0'], '--draws=0: give a number from 1'),
    (['A', 'B', '--out=OUT', '--select=zebra'], 'no matrix of'),
    (['A', 'none', '--out=OUT'], 'none is no directory'),
    (['A', 'none@3', '--out=OUT'], 'no checkpoints in none'),
    (['A', 'asset:points24_nano', '--out=OUT'], 'two of one kind'),
    (['A', 'B', '--out=A'], 'and no comparison: choose another --out'),
    (['A', 'B', '--out=A/config.json'], 'is a file: choose another --out')])
def test_a_command_that_makes_no_sense_leaves_nothing(
    pair, tmp_path, capfd, argv, complaint):
  words = {'A': pair[0], 'B': pair[1], '--out=OUT': f'--out={tmp_path / "o"}',
           '--out=A': f'--out={pair[0]}',
           '--out=A/config.json': f'--out={pair[0]}/config.json'}
  before = contents(pathlib.Path(pair[0]))
  line = refused(['compare', *(words.get(x, x) for x in argv)], capfd)
  assert complaint in line
  assert not list(tmp_path.iterdir())
  assert contents(pathlib.Path(pair[0])) == before


def test_the_same_weights_are_a_warning(pair, tmp_path, capfd):
  found = rlft.compare(pair[0], pair[0], tmp_path / 'out',
                       select='layers.0.*q_proj', draws=1)
  assert found['warnings'][-1] == (
      'before and after hold the same matrices: nothing to compare')
  assert 'nothing to compare' in capfd.readouterr().err
  assert found['rows'][0]['update_norm'] == 0
  assert found['page'] == tmp_path / 'out' / 'compare.html'


def test_a_file_that_changes_meanwhile_is_seen(pair, tmp_path, monkeypatch):
  after = llama.write(tmp_path / 'after', llama.moved(WEIGHTS))
  path, digest = after / 'model.safetensors', job.digest

  def changed(*args):
    found = digest(*args)
    if args[0].name == str(after):
      content = bytearray(path.read_bytes())
      where = header.read(path).entries
      content[where['model.layers.3.self_attn.o_proj.weight'].start] ^= 1
      path.write_bytes(content)
    return found

  monkeypatch.setattr(job, 'digest', changed)
  before = llama.write(tmp_path / 'before', WEIGHTS)
  with pytest.raises(ValueError, match='changed while it was read'):
    comparison.run(str(before), str(after), **OPTIONS)


def test_stacks_of_experts_are_compared_one_by_one(tmp_path):
  """A stack, and the same matrices by themselves, give the same rows."""
  rng = np.random.default_rng(0)
  old = rng.normal(size=(3, 32, 32)).astype(np.float32)
  new = old + .1 * rng.normal(size=old.shape).astype(np.float32)
  stacks = [str(llama.write(tmp_path / f's{i}', {'l.2.experts.w1': x}))
            for i, x in enumerate((old, new))]
  # A `weight` is stored output first.
  single = [str(llama.write(tmp_path / f'm{i}', {
      f'l.2.experts.{e}.w1.weight': x[e].T for e in range(3)}))
      for i, x in enumerate((old, new))]
  one, many = (rlft.compare(*x, select='w1', draws=1)
               for x in (stacks, single))
  for a, b in zip(one['rows'], many['rows'], strict=True):
    assert (a['layer'], a['expert']) == (2, b['expert'])
    for key in ('angle_top_rad', 'value_shift', 'energy_rotated'):
      assert a[key] == pytest.approx(b[key], rel=1e-4)
  assert one['curves']['w1/angles'].shape == (3, 6)


def test_what_is_damaged_or_of_others_is_told(pair, finished, tmp_path, capfd):
  out = tmp_path / 'copy'
  shutil.copytree(finished, out)
  curves = out / 'rotation.npz'
  curves.write_bytes(curves.read_bytes()[:-40])
  argv = ['compare', *pair, f'--out={out}', *FLAGS]
  assert main.main(argv) == 2
  assert 'rotation.npz is damaged or not there' in capfd.readouterr().err
  (out / 'rotation.json').write_text('{"rows": []}')
  assert 'holds the rotation of a study: choose' in refused(argv, capfd)
  (out / 'rotation.json').write_text('{"rows": ')
  assert 'rotation.json is damaged' in refused(argv, capfd)


def test_curves_of_unequal_length_are_filled_up():
  found = job.stacked([np.ones((1, 3)), np.ones((2, 5))])
  assert found.shape == (3, 5)
  assert np.isnan(found).sum() == 2 and np.isnan(found[0, 3:]).all()


def test_runs_keep_their_table(tmp_path):
  """Whole stacks: the rows of analyses/rotation.py, kept in a directory."""
  name = 'asset:points24_nano'
  options = dict(select='query', draws=1)
  plain = rlft.compare(name, name, **options)
  assert plain['before'] == 'before' and 'tensor' not in plain['rows'][0]
  kept = rlft.compare(name, name, tmp_path / 'out', **options)
  for row, own in zip(kept['rows'], plain['rows'], strict=True):
    assert row.pop('tensor') == 'layers/attention/query/kernel'
    assert set(row) == set(own)
    for key, value in own.items():
      if isinstance(value, float):
        value = pytest.approx(value, abs=1e-6, rel=2e-6)
      assert row[key] == value, key
  with np.load(tmp_path / 'out' / 'rotation.npz') as curves:
    for key, array in plain['curves'].items():
      np.testing.assert_allclose(curves[key], array, atol=1e-6)


MEMORY = '''
import resource, sys
import rlft
options = dict(select='proj', draws=1)
rlft.compare(sys.argv[1], sys.argv[2], **options)
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rlft.compare(sys.argv[3], sys.argv[4], sys.argv[5], **options)
rlft.heal(sys.argv[3], sys.argv[4], sys.argv[5] + '/healed', select='proj',
          edit='interpolate', amount=0.5)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)
'''


@pytest.mark.slow
def test_memory_is_for_one_matrix_however_many_there_are(tmp_path):
  """The peak over many matrices and a large embedding."""
  rng = np.random.default_rng(0)
  shape = (4, 131_072)  # 2 MiB, and quick to decompose
  base = rng.normal(size=shape).astype(np.float32)

  def write(name, count, rows):
    tensors = {f'm.{i}.proj.weight': np.roll(base, i, axis=1) + i * base
               for i in range(count)}
    tensors['embed.weight'] = np.ones((rows, 4096), np.float32)
    return str(llama.write(tmp_path / name, tensors, shards=2))

  folders = [write('a', 2, 1), write('b', 2, 1), write('c', 12, 12_000),
             write('d', 12, 12_000), str(tmp_path / 'out')]
  whole = sum(p.stat().st_size for p in (tmp_path / 'c').iterdir())
  assert whole > 200 * 2**20
  done = subprocess.run(
      [sys.executable, '-c', MEMORY, *folders], check=True, text=True,
      capture_output=True, env=os.environ | {'JAX_PLATFORMS': 'cpu'})
  grown = 1024 * int(done.stdout)  # bytes
  assert grown < 64 * 2**20 < whole / 3, grown / 2**20


def test_decompositions_are_made_once_per_matrix(pair, monkeypatch):
  seen = []
  for module in (svd, in_place):
    monkeypatch.setattr(
        module, 'decompose', lambda w, *x, real=module.decompose, **y:
        seen.append(w.shape) or real(w, *x, **y))
  comparison.run(*pair, select='layers.0.*q_proj', draws=1)
  # before, after, the floor, a null; and one inside the update's stable rank
  assert 4 <= len(seen) <= 5
