"""Reads a study directory into plain tables: a dict of lists of rows.

Every row of a stage carries `stage, role, seed, from_step`. A file that is
missing leaves its rows out; a line or file that cannot be read is skipped and
says so in the table `warnings`. The tables:

  stages       name, role, seed, from_step, seconds, state, missing
  evals        step, eval, n, success, outcomes, ..., solved (which hands)
  metrics      step, loss, kl, ...
  samples      step, eval, prompt, completion, reward, outcome
  rotation     comparison, target, layer, module, angles and energies
  spectra      comparison, target, module, arrays over layers x directions
  restoration  edit, kind, control, target, id, ood, id_solved, ood_solved
  warnings     sentences
"""
import json
import math
import pathlib
import zipfile
from typing import Any

import numpy as np
from jaxtyping import Bool

Tables = dict[str, list]

EXPECTED = {  # the file that shows that a stage of this role was run
    'base': 'evals.jsonl', 'sft': 'evals.jsonl', 'sft_mixed': 'evals.jsonl',
    'rl': 'evals.jsonl', 'rotation': 'rotation.json',
    'restoration': 'restoration.jsonl'}


def read(study_dir: pathlib.Path) -> Tables:
  """All tables of a study; ValueError if there is no such directory."""
  if not study_dir.is_dir():
    raise ValueError(f'{study_dir} is not a directory; give a study directory')
  warnings = []
  tables = {name: [] for name in (
      'stages', 'evals', 'metrics', 'samples', 'rotation', 'spectra',
      'restoration')}
  for stage in _stages(study_dir, warnings):
    tables['stages'].append(stage)
    if stage['role'] not in EXPECTED:
      continue
    run_dir = study_dir / stage['name']
    tables['metrics'] += _tagged(
        _jsonl(run_dir / 'metrics.jsonl', warnings), stage)
    tables['evals'] += _evals(run_dir, stage, warnings)
    tables['samples'] += _samples(run_dir, stage, warnings)
    rows, spectra = _rotation(run_dir, stage, tables['stages'], warnings)
    tables['rotation'] += rows
    tables['spectra'] += spectra
    tables['restoration'] += _restoration(
        run_dir, stage, tables['stages'], warnings)
  return tables | {'warnings': warnings}


def about(study_dir: pathlib.Path) -> dict[str, Any]:
  """The study's provenance: config, command, git and the model's size."""
  warnings = []
  config = _json(study_dir / 'config.json', warnings)
  config = config if isinstance(config, dict) else None
  found = {'name': None, 'parameters': None}
  runs = sorted(study_dir.glob('*/config.json'))
  for section in (config, *(_json(path, warnings) for path in runs)):
    section = section if isinstance(section, dict) else {}
    model = section.get('model')
    model = model if isinstance(model, dict) else {'name': model}
    name = model.get('preset') or model.get('name')
    size = model.get('parameters', section.get('parameters'))
    found['name'] = found['name'] or (str(name) if name else None)
    found['parameters'] = found['parameters'] or (
        int(size) if isinstance(size, int | float) else None)
  if not found['parameters']:
    warnings.append('the number of parameters is not recorded in config.json')
  return {'config': config, 'command': _text(study_dir / 'command.txt'),
          'git': _text(study_dir / 'git.txt'), 'model': found,
          'warnings': warnings}


def unpack(hexadecimal: str, n: int) -> Bool[np.ndarray, '_']:
  """The first n bits of a packed bit string; ValueError if it is too short."""
  bits = np.unpackbits(np.frombuffer(bytes.fromhex(hexadecimal), np.uint8))
  if bits.size < n:
    raise ValueError(f'{bits.size} bits for {n} hands')
  return bits[:n].astype(bool)


def _stages(study_dir, warnings):
  """Stages in order, each with what came of it; duplicates are left out."""
  listed = _json(study_dir / 'stages.json', warnings)
  if listed is None:
    warnings.append('stages.json is missing: no stage is shown')
  stages, seen = [], set()
  for raw in listed if isinstance(listed, list) else []:
    if not (isinstance(raw, dict) and raw.get('name') and raw.get('role')):
      warnings.append('stages.json: an entry without name or role is skipped')
      continue
    role = 'sft_mixed' if raw.get('variant') == 'mixed_rules' else raw['role']
    stage = {'name': raw['name'], 'role': role,
             'seed': int(raw.get('seed') or 0),
             'from_step': raw.get('from_step'),
             'seconds': _number(raw.get('seconds'))}
    key = (role, stage['seed'], stage['from_step'])
    if role in ('sft', 'sft_mixed', 'rl') and key in seen:
      warnings.append(f'stage {stage["name"]} repeats another of its role, '
                      'seed and start: it is not shown')
      continue
    if role == 'rl' and stage['from_step'] is None:
      warnings.append(f'stage {stage["name"]} is RL without from_step: it '
                      'cannot be placed among the starts and is not shown')
      continue
    seen.add(key)
    there = (study_dir / raw['name'] / EXPECTED.get(role, '')).exists()
    stage['missing'] = role in EXPECTED and not there
    stage['state'] = ('finished' if raw.get('finished') else
                      'unfinished' if there else 'not run')
    if raw.get('finished') and stage['missing'] and role != 'base':
      warnings.append(f'stage {stage["name"]} is finished but has no '
                      f'{EXPECTED[role]}')
    stages.append(stage)
  return stages


def _evals(run_dir, stage, warnings):
  path = run_dir / 'evals.jsonl'
  rows = {}  # a resumed run repeats evaluations: the last one counts
  for raw in _jsonl(path, warnings):
    n, success = _number(raw.get('n')), _number(raw.get('success'))
    step = _number(raw.get('step'))
    if None in (n, success, step) or n <= 0 or not 0 <= success <= 1:
      warnings.append(f'{_name(path)}: a row without step, n and success '
                      'in [0, 1] is skipped')
      continue
    raw |= {'n': int(n), 'step': int(step), 'solved': _solved(
        raw.get('solved'), int(n), success, _name(path), warnings)}
    rows[raw['step'], raw.get('eval')] = raw
  return _tagged(rows.values(), stage)


def _samples(run_dir, stage, warnings):
  return [row | {'step': int(path.stem)}
          for path in sorted((run_dir / 'samples').glob('*.jsonl'))
          if path.stem.isdigit()
          for row in _tagged(_jsonl(path, warnings), stage)]


def _rotation(run_dir, stage, stages, warnings):
  """Rows and spectra of one comparison, named by what it compares."""
  found = _json(run_dir / 'rotation.json', warnings)
  if not isinstance(found, dict):
    return [], []
  before, after = (_checkpoint(found.get(end), stages)
                   for end in ('before', 'after'))
  tag = {'comparison': f'{before[1]} → {after[1]}', 'target': after[0]}
  listed = [row for row in found.get('rows') or []
            if isinstance(row, dict) and {'layer', 'module'} <= set(row)]
  rows = [row | tag for row in _tagged(listed, stage)]
  spectra = []
  path = run_dir / 'rotation.npz'
  if path.exists():
    try:
      with path.open('rb') as file, np.load(file) as arrays:
        for key in sorted({k.rpartition('/')[0] for k in arrays.files}):
          spectra.append(tag | {'module': key} | {
              k.rpartition('/')[2]: arrays[k] for k in arrays.files
              if k.rpartition('/')[0] == key})
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
      warnings.append(f'{_name(path)} cannot be read: it is skipped')
  return rows, _tagged(spectra, stage)


def _restoration(run_dir, stage, stages, warnings):
  path = run_dir / 'restoration.jsonl'
  rows = {}
  for raw in _jsonl(path, warnings):
    label = raw.get('edit')
    splits = [raw.get('id'), raw.get('ood')]
    if not label or not all(
        isinstance(split, dict) and _number(split.get('n')) and
        _number(split.get('success')) is not None for split in splits):
      warnings.append(f'{_name(path)}: a row without edit, id and ood is '
                      'skipped')
      continue
    for name, split in zip(('id', 'ood'), splits, strict=True):
      raw[f'{name}_solved'] = _solved(
          raw.get(f'{name}_solved'), int(split['n']), split['success'],
          f'{_name(path)}, {label}', warnings)
    target, _ = _checkpoint(raw.get('after'), stages)
    rows[label] = raw | {
        'kind': raw.get('kind') or label.split()[0],
        'control': bool(raw.get('control')), 'target': target}
  return _tagged(rows.values(), stage)


def _checkpoint(name, stages):
  """(role, 'role@step') of a `RUN_DIR@STEP`; sft if the study has no such run.

  A stage's name may contain slashes, so paths are compared from their ends.
  """
  run, _, step = str(name or '').rpartition('@')
  match = [s for s in stages
           if run == s['name'] or run.endswith('/' + s['name'])]
  role = match[-1]['role'] if match else 'sft'
  shown = match[-1]['role'] if match else pathlib.PurePath(run).name
  return role, f'{shown}@{step}' if step else str(name)


def _solved(packed, n, success, where, warnings):
  """The solved hands, or None with a warning if they cannot be right."""
  if not packed:
    return None
  try:
    bits = unpack(packed, n)
  except (TypeError, ValueError):
    bits = None
  if bits is None or bits.sum() != round(success * n):
    warnings.append(f'{where}: the solved hands disagree with n and success; '
                    'paired differences leave them out')
    return None
  return bits


def _tagged(rows, stage):
  tag = {'stage': stage['name'], 'role': stage['role'], 'seed': stage['seed'],
         'from_step': stage['from_step']}
  return [row | tag for row in rows]


def _jsonl(path, warnings):
  """The objects of a file with one per line."""
  rows = []
  for number, line in enumerate(_text(path).split('\n'), start=1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except ValueError:
      row = None
    if isinstance(row, dict):
      rows.append(row)
    else:
      warnings.append(f'{_name(path)}: line {number} is not a JSON object '
                      '(truncated?): it is skipped')
  return rows


def _json(path, warnings):
  text = _text(path)
  if not text:
    return None
  try:
    return json.loads(text)
  except ValueError:
    warnings.append(f'{_name(path)} is not JSON (truncated?): it is skipped')
    return None


def _text(path):
  return path.read_text(errors='replace') if path.is_file() else ''


def _name(path):
  return f'{path.parent.name}/{path.name}'


def _number(value):
  """The value if it is a finite number, else None."""
  good = isinstance(value, int | float) and not isinstance(value, bool)
  return value if good and math.isfinite(value) else None
