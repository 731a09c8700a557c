"""Reads a study directory into plain tables: a dict of lists of rows.

Every row of a stage carries `stage, role, seed, from_step`. A file that is
missing leaves its rows out; a line or file that cannot be read is skipped and
says so in the table `warnings`. The tables:

  stages       name, role, reads, seed, from_step, seconds, state, config
  evals        step, eval, n, success, outcomes, ..., solved (which hands)
  metrics      step, loss, kl, ...
  samples      step, eval, prompt, completion, reward, outcome
  rotation     target, comparison, layer, module, angles and energies
  spectra      target, comparison, module, arrays over layers x directions
  restoration  target, comparison, edit, kind, control, id, ood, id_solved, ...
  comparison   the study's section `comparison`, where it declares one
  warnings     sentences

`reads` says which table a stage fills: evals, rotation or restoration. The
`target` of a comparison is the role of the checkpoint that it is about: `sft`,
or `rl` where the later weights are those of an RL run.
"""
import io
import pathlib
import zipfile
from typing import Any

import numpy as np

from rlft import arms
from rlft.report import files
from rlft.training import store

Tables = dict[str, list]

EXPECTED = {'evals': 'evals.jsonl', 'rotation': 'rotation.json',
            'restoration': 'restoration.jsonl'}
RL = ('rl', 'rl_kl')  # PPO, and as a control PPO held near its start
READS = dict.fromkeys(('sft', 'sft_mixed', 'rl', 'rl_kl', 'base'), 'evals')


def read(study_dir: store.Where) -> Tables:
  """All tables of a study; ValueError if there is no such directory."""
  if not study_dir.is_dir():
    raise ValueError(f'{study_dir} is not a directory; give a study directory')
  log = files.Log(study_dir, [])
  tables = {'stages': _stages(log)} | {name: [] for name in (
      'evals', 'metrics', 'samples', 'rotation', 'spectra', 'restoration')}
  for stage in tables['stages']:
    run_dir = study_dir / stage['name']
    if stage['reads'] == 'evals':
      tables['metrics'] += _tagged(
          files.lines(run_dir / 'metrics.jsonl', log), stage)
      tables['evals'] += _evals(run_dir, stage, log)
      tables['samples'] += _samples(run_dir, stage, log)
    if stage['reads'] == 'rotation':
      rows, spectra = _rotation(run_dir, stage, tables['stages'], log)
      tables['rotation'] += rows
      tables['spectra'] += spectra
    if stage['reads'] == 'restoration':
      tables['restoration'] += _restoration(
          run_dir, stage, tables['stages'], log)
  _unclustered(tables, log)
  tables['comparison'] = _comparison(log)
  return tables | {'warnings': log.warnings}


def _comparison(log):
  """What the study declares, in a list; [] if nothing, or nothing readable."""
  declared = files.section(
      log.root / 'config.json', files.Log(log.root, [])).get('comparison')
  try:
    return [] if declared is None else [arms.plain(**declared)]
  except (TypeError, ValueError) as error:
    log.warnings.append(f'config.json: no comparison can be made: {error}')
    return []


def _unclustered(tables, log):
  """Says where hands of one problem cannot be told from other hands."""
  bare = {r['stage'] for r in tables['evals'] if r['problems'] is None} | {
      r['stage'] for r in tables['restoration']
      if r['id_problems'] is None or r['ood_problems'] is None}
  if bare:
    log.warnings.append(
        f'{len(bare)} stage{"s" * (len(bare) > 1)} did not record which hands '
        f'are one problem ({", ".join(sorted(bare)[:3])}'
        f'{", ..." * (len(bare) > 3)}): their intervals count hands as '
        'independent and are too narrow')


def _stages(log):
  """Stages in order, each with what came of it; duplicates are left out."""
  listed = files.document(log.root / 'stages.json', log)
  if listed is None:
    log.warnings.append('stages.json is missing: no stage is shown')
  listed = listed if isinstance(listed, list) else []
  config = files.section(log.root / 'config.json', log)
  planned = config.get('stages')
  planned = planned if isinstance(planned, dict) else {}
  names = {raw.get('name') for raw in listed if isinstance(raw, dict)}
  ahead = [{'name': name, 'role': plan.get('role'), 'seed': plan.get('seed'),
            'from_step': plan.get('from_step')}
           for name in config.get('order') or planned
           if name not in names and isinstance(plan := planned.get(name), dict)]
  stages, seen = [], set()
  for raw in (*listed, *ahead):
    if not (isinstance(raw, dict) and raw.get('name') and raw.get('role')):
      log.warnings.append('stages.json: an entry without name or role')
      continue
    if raw['role'] == 'report':
      continue  # what writes this page is no part of what it tells
    name, start = raw['name'], raw.get('from_step')
    role = 'sft_mixed' if raw.get('variant') == 'mixed_rules' else raw['role']
    key = (role, int(raw.get('seed') or 0), start)
    if role in READS and key in seen:
      log.warnings.append(f'stage {name} repeats another of its role, seed '
                          'and start: it is not shown')
      continue
    if role in RL and start is None:
      log.warnings.append(f'stage {name} is RL without from_step: it cannot '
                          'be placed among the starts and is not shown')
      continue
    seen.add(key)
    reads = _reads(role, name, planned)
    expected = EXPECTED.get(reads)
    there = expected and (log.root / name / expected).exists()
    if raw.get('finished') and expected and not there and role != 'base':
      log.warnings.append(f'stage {name} is finished but has no {expected}')
    stages.append({
        'name': name, 'role': role, 'reads': reads, 'seed': key[1],
        'from_step': start, 'seconds': files.number(raw.get('seconds')),
        'objective': _objective(log, name, planned) if (
            reads == 'evals') else None,
        'state': 'finished' if raw.get('finished') else
                 'unfinished' if there else 'not run',
        'config': _config(name, planned)})
  return stages


def _reads(role, name, planned):
  """Which table a stage fills, None for one that fills none."""
  if role in READS:
    return READS[role]
  config = _config(name, planned)
  try:
    return config['analysis']['name']
  except (KeyError, TypeError):
    return role if role in EXPECTED else 'evals' if (
        'objective' in config) else None


def _config(name, planned):
  """What the study planned for a stage, {} where that is not known."""
  try:
    return dict(planned[name]['config'])
  except (KeyError, TypeError, ValueError):
    return {}


def _objective(log, name, planned):
  """What a stage trains with, by its plan or else its run's own config."""
  config = _config(name, planned) or files.section(
      log.root / name / 'config.json', log)
  try:
    return str(config['objective']['name'])
  except (KeyError, TypeError):
    return None


def _evals(run_dir, stage, log):
  path = run_dir / 'evals.jsonl'
  rows = {}  # a resumed run repeats evaluations: the last one counts
  for raw in files.lines(path, log):
    n, success, step = (
        files.number(raw.get(key)) for key in ('n', 'success', 'step'))
    if None in (n, success, step) or n <= 0 or not 0 <= success <= 1:
      log.say(path, 'a row without step, n and success in [0, 1] is skipped')
      continue
    what = f'{raw.get("eval")} at step {step}'
    raw |= {'n': int(n), 'step': int(step), 'solved': files.hands(
        raw.get('solved'), int(n), success, path, what, log),
            'problems': files.problems(
                raw.get('problems'), int(n), path, what, log)}
    raw['wins'] = files.wins(raw.get('wins'), raw['solved'], path, what, log)
    rows[raw['step'], raw.get('eval')] = raw
  return _tagged(rows.values(), stage)


def _samples(run_dir, stage, log):
  return [row | {'step': int(path.stem)}
          for path in sorted((run_dir / 'samples').glob('*.jsonl'))
          if path.stem.isdigit()
          for row in _tagged(files.lines(path, log), stage)]


def _rotation(run_dir, stage, stages, log):
  """Rows and spectra of one comparison."""
  found = files.section(run_dir / 'rotation.json', log)
  tag = _compared(found, run_dir, stages, log)
  rows = [row | tag for row in found.get('rows') or []
          if isinstance(row, dict) and {'layer', 'module'} <= set(row)]
  spectra = []
  path = run_dir / 'rotation.npz'
  if path.exists():
    try:
      with np.load(
          io.BytesIO(store.read(path)), allow_pickle=False) as arrays:
        for module in sorted({k.rpartition('/')[0] for k in arrays.files}):
          spectra.append(tag | {'module': module} | {
              k.rpartition('/')[2]: arrays[k] for k in arrays.files
              if k.rpartition('/')[0] == module})
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
      log.say(path, 'cannot be read: it is skipped')
  return _tagged(rows, stage), _tagged(spectra, stage)


def _restoration(run_dir, stage, stages, log):
  path = run_dir / 'restoration.jsonl'
  rows = {}
  for raw in files.lines(path, log):
    label = raw.get('edit')
    splits = {name: raw.get(name) for name in ('id', 'ood')}
    if not label or not all(
        isinstance(split, dict) and files.number(split.get('n')) and
        files.number(split.get('success')) is not None
        for split in splits.values()):
      log.say(path, 'a row without edit, id and ood is skipped')
      continue
    for name, split in splits.items():
      raw[f'{name}_solved'] = files.hands(
          raw.get(f'{name}_solved'), int(split['n']), split['success'], path,
          f'{label}, {name}', log)
      raw[f'{name}_problems'] = files.problems(
          raw.get(f'{name}_problems'), int(split['n']), path,
          f'{label}, {name}', log)
    rows[label] = raw | _compared(raw, run_dir, stages, log) | {
        'kind': raw.get('kind') or label.split()[0],
        'control': bool(raw.get('control'))}
  return _tagged(rows.values(), stage)


def _compared(found, run_dir, stages, log):
  """What an analysis compares, from its run's config or its own file."""
  named = files.section(run_dir / 'config.json', log).get('checkpoints')
  named = named if isinstance(named, dict) else found
  before, after = (
      _checkpoint(named.get(end, default), stages) for end, default in (
          ('before', 'base'), ('after', 'SFT end')))
  return {'target': after[0], 'comparison': f'{before[1]} → {after[1]}'}


def _checkpoint(name: Any, stages):
  """(role, 'role@step') of a `RUN_DIR@STEP`; sft if the study has no such run.

  A stage's name may contain slashes, so paths are compared from their ends.
  """
  run, _, step = str(name).rpartition('@')
  match = [s for s in stages
           if run == s['name'] or run.endswith('/' + s['name'])]
  if match:
    return match[-1]['role'], f'{match[-1]["role"]}@{step}'
  return 'sft', pathlib.PurePath(str(name)).name


def _tagged(rows, stage):
  tag = {key: stage[key] for key in ('role', 'seed', 'from_step')}
  return [row | tag | {'stage': stage['name']} for row in rows]
