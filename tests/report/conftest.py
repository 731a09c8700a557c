"""A made-up study: the files that a study writes, with plausible numbers."""
import json

import numpy as np
import pytest

from rlft import report

STEPS = (0, 10, 20, 50, 100, 200, 400, 600)
ID = (.20, .38, .52, .66, .78, .88, .93, .95)
OOD = (.16, .29, .40, .46, .37, .24, .12, .07)
STARTS = {0: (.16, .18), 50: (.46, .36), 200: (.24, .37), 300: (.18, .31),
          600: (.07, .07)}
EDITS = (  # label, kind, control, ID, OOD, distance to SFT, to the base
    ('none', 'none', True, .95, .07, 0., 8.),
    ('values top=0.2', 'values', False, .95, .07, .3, 7.9),
    ('values top=1.0', 'values', False, .948, .072, .6, 7.8),
    ('vectors top=0.1', 'vectors', False, .94, .13, 2.1, 7.),
    ('vectors top=0.2', 'vectors', False, .93, .22, 3.2, 6.4),
    ('vectors top=0.5', 'vectors', False, .85, .30, 5.4, 4.6),
    ('revert layers=0:0.25', 'revert', False, .91, .29, 4., 6.9),
    ('revert layers=0.25:0.5', 'revert', False, .94, .09, 4., 6.9),
    ('revert layers=0.5:0.75', 'revert', False, .94, .09, 4., 6.9),
    ('revert layers=0.75:1', 'revert', False, .945, .10, 4., 6.9),
    ('low_rank k=8', 'low_rank', True, .93, .17, 3., 7.),
    ('interpolate 0.1', 'interpolate', True, .945, .12, .8, 7.2),
    ('interpolate 0.25', 'interpolate', True, .935, .20, 2., 6.),
    ('interpolate 0.5', 'interpolate', True, .88, .31, 4., 4.),
    ('interpolate 0.75', 'interpolate', True, .70, .40, 6., 2.),
    ('interpolate 1.0', 'interpolate', True, .66, .46, 8., 0.),
    ('noise 0.25', 'noise', True, .90, .06, 2., 8.2),
    ('noise 0.5', 'noise', True, .62, .04, 4., 8.9))
MODULES = ('query', 'key', 'value', 'out', 'gate', 'up', 'down')
HOSTILE = ('</script><img src=x onerror=document.title="owned"><!-- '
           '<b>bold</b> & {{data}} {{title}}')


class Hands:
  """Fixed hands of one seed: each condition solves the easiest, with noise."""

  def __init__(self, rng, count, jitter):
    self.rng, self.count, self.jitter = rng, count, jitter
    self.ease = {name: rng.random(count) for name in ('id', 'ood')}

  def solve(self, split, rate):
    """Exactly round(rate * count) hands, mostly the easy ones."""
    order = np.argsort(
        self.ease[split] + self.rng.normal(0, .25, self.count))
    bits = np.zeros(self.count, bool)
    rate = np.clip(rate + self.jitter * self.rng.normal(), 0, 1)
    bits[order[:round(rate * self.count)]] = True
    return bits


def problems(count):
  """Two hands of each multiset."""
  return (np.arange(count) // 2).tolist()


def packed(bits):
  return np.packbits(bits).tobytes().hex()


def evaluation(step, split, bits, **more):
  """One row of evals.jsonl."""
  rate = float(bits.mean())
  failed = 1 - rate
  form = .7 * failed * np.exp(-step / 8)
  lock = (failed - form) * (min(.8, step / 500) if split == 'ood' else 0)
  rest = failed - form - lock
  return {'step': step, 'eval': split, 'tries': 1, 'temperature': 0.,
          'n': int(bits.size), 'success': rate, 'low': 0., 'high': 1.,
          'outcomes': {'correct': rate, 'format': form, 'lock_in': lock,
                       'wrong_number': .6 * rest, 'wrong_value': .4 * rest},
          'number_field': min(1., rate + .2), 'solved': packed(bits),
          'problems': problems(bits.size),
          'reference_nll': .8 + abs(np.log10((step + 1) / 21)) * .2,
          'number_nll': .3 + step / 1000} | more


def write_lines(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def write_json(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value))


def samples(run_dir, step):
  """A few replies, one of them hostile to a page."""
  prompt = '24 faces rank cards K 5 2 4 :'
  write_lines(run_dir / 'samples' / f'{step:06d}.jsonl', [
      {'eval': 'ood', 'prompt': prompt, 'reward': 5., 'outcome': 'correct',
       'completion': '13 5 2 4 : ( 13 - 5 + 4 ) * 2 = 24'},
      {'eval': 'ood', 'prompt': prompt, 'reward': -2., 'outcome': 'lock_in',
       'completion': '10 5 2 4 : ( 10 - 2 - 5 ) * 8 = 24'},
      {'eval': 'id', 'prompt': prompt, 'reward': -3., 'outcome': 'format',
       'completion': HOSTILE}])


def write_run(run_dir, hands, points, start=0, **metrics):
  """A training run with evaluations [(step, id, ood)]."""
  write_lines(run_dir / 'evals.jsonl', [
      evaluation(step, split, hands.solve(split, rate))
      for step, *rates in points
      for split, rate in zip(('id', 'ood'), rates, strict=True)])
  last = points[-1][0]
  write_lines(run_dir / 'metrics.jsonl', [
      {'step': step, 'loss': 1 / (1 + step), 'grad_norm': 1.,
       'kl': .02 * np.log1p(step) + .0002 * start} | metrics
      for step in range(0, last + 1, max(1, last // 30))])
  for step, *_ in points[::3]:
    samples(run_dir, step)


def write_panel(run_dir, hands, step, rates):
  """The evaluations beside greedy ID and OOD, appended at one step."""
  rows = []
  for split, rate in zip(('id', 'ood'), rates, strict=True):
    other = 'ood' if split == 'id' else 'id'
    rows += [evaluation(step, f'{split}_{way}', hands.solve(split, rate + more))
             for way, more in (('sampled', -.05), ('tries5', .02),
                               (f'rule_{other}_sampler', -.1))]
    wins = [hands.solve(split, rate - .05) for _ in range(5)]
    rows.append(evaluation(
        step, f'{split}_independent5', np.any(wins, axis=0),
        wins=[packed(w) for w in wins]))
  rows.append(evaluation(step, 'id_seen', hands.solve('id', rates[0] + .03)))
  with (run_dir / 'evals.jsonl').open('a') as file:
    file.writelines(json.dumps(row) + '\n' for row in rows)


def write_rotation(run_dir, rng, before, after, turn=.3):
  """rotation.json and rotation.npz of 4 layers."""
  rows = [{'layer': layer, 'module': module,
           'angle_top_rad': turn + .05 * layer + .1 * rng.random(),
           'angle_null_rad': .35 + .05 * rng.random(),
           'angle_floor_rad': 1e-4, 'value_shift': .01 + .004 * rng.random(),
           'value_shift_null': .03 + .004 * rng.random(),
           'value_shift_floor': 1e-6, 'energy_diagonal': .01,
           'energy_rotated': .8, 'energy_outside': .19,
           'energy_diagonal_null': .015 + .002 * rng.random(),
           'update_norm': 2., 'weight_norm': 30., 'stable_rank': 9.}
          for layer in range(4) for module in MODULES]
  write_json(run_dir / 'rotation.json', {
      'before': before, 'after': after, 'null': 'norm_matched', 'seed': 0,
      'rows': rows})
  arrays = {}
  profile = np.linspace(.1, 1.2, 64)
  for module in MODULES:
    for name, shape in (('cosine', 1.), ('cosine_null', 1.1)):
      arrays[f'{module}/{name}'] = np.cos(np.clip(
          profile * shape + .05 * rng.normal(size=(4, 64)), 0, np.pi / 2))
    for name, level in (('value_shift', .01), ('value_shift_null', .03)):
      arrays[f'{module}/{name}'] = level * rng.random((4, 64))
  np.savez(run_dir / 'rotation.npz', **arrays)


def write_restoration(run_dir, hands, edits=EDITS):
  """restoration.jsonl of labelled edits."""
  rows = []
  for label, kind, control, id_rate, ood_rate, to_sft, to_base in edits:
    row = {'edit': label, 'kind': kind, 'control': control,
           'distance_to_sft': to_sft, 'distance_to_base': to_base}
    for split, rate in (('id', id_rate), ('ood', ood_rate)):
      bits = hands.solve(split, rate)
      row[split] = {'n': hands.count, 'success': float(bits.mean()),
                    'low': 0., 'high': 1.}
      row[f'{split}_solved'] = packed(bits)
      row[f'{split}_problems'] = problems(hands.count)
      row[f'outcomes_{split}'] = {'correct': float(bits.mean())}
    rows.append(row)
  write_lines(run_dir / 'restoration.jsonl', rows)


def write_study(path, *, seeds=(0, 1), count=200, sft=(ID, OOD), edits=EDITS,
                starts=STARTS, budget=60, jitter=0.):
  """Writes a finished study; returns its directory.

  `jitter` is the spread of rates between seeds.
  """
  stages = [{'name': 'base', 'role': 'base', 'seed': 0, 'from_step': None,
             'seconds': 61.5, 'finished': True}]

  def stage(role, seed, from_step=None, seconds=30.):
    name = f'{role}_{seed}' + ('' if from_step is None else f'_{from_step}')
    stages.append({'name': name, 'role': role, 'seed': seed, 'finished': True,
                   'from_step': from_step, 'seconds': seconds + seed})
    return path / name

  for seed in seeds:
    rng = np.random.default_rng(seed)
    hands = Hands(rng, count, jitter)
    run_dir = stage('sft', seed, seconds=80.)
    write_run(run_dir, hands, list(zip(STEPS, *sft, strict=True)))
    write_panel(run_dir, hands, STEPS[-1], (sft[0][-1], sft[1][-1]))
    for start, (first, last) in starts.items():
      run_id = float(np.interp(start, STEPS, sft[0]))
      steps = np.linspace(0, budget, 4).astype(int).tolist()
      write_run(stage('rl', seed, start, 44.), hands, [
          (s, run_id + .02 * s / budget, first + (last - first) * s / budget)
          for s in steps], start, reward=1., advantage_entropy=2., success=.9,
                kl_k1=.01, explained_variance=.5)
    write_rotation(stage('rotation', seed, seconds=6.), rng,
                   f'{path}/sft_{seed}@0', f'{path}/sft_{seed}@600')
    run_dir = stage('restoration', seed, 600, 21.)
    write_restoration(run_dir, hands, edits)
    write_json(run_dir / 'config.json', {
        'analysis': {'name': 'restoration'}, 'checkpoints': {
            'before': f'{path}/sft_{seed}@0',
            'after': f'{path}/sft_{seed}@600'}})
  stages.append({'name': 'report', 'role': 'report', 'seed': None,
                 'from_step': None, 'seconds': None, 'finished': False})
  write_json(path / 'stages.json', stages)
  write_json(path / 'config.json', {
      'model': {'name': 'transformer', 'layers': 4, 'parameters': 870_000},
      'seeds': list(seeds), 'env': {'name': 'general_points'}})
  (path / 'command.txt').write_text('rlft run --config=study.py\n')
  (path / 'git.txt').write_text('0123456789abcdef\n')
  return path


@pytest.fixture
def make_study(tmp_path):
  """write_study into a fresh directory."""
  return lambda **kwargs: write_study(tmp_path / 'study', **kwargs)


@pytest.fixture(scope='session')
def written(tmp_path_factory):
  """A finished study with its report, to be read only."""
  path = write_study(tmp_path_factory.mktemp('written') / 'study')
  report.write(path)
  return path


@pytest.fixture
def study(make_study):
  """A finished study of two seeds."""
  return make_study()
