"""Runs an analysis on named checkpoints: tables, or edits to evaluate."""
import io
import json

import ml_collections
import numpy as np

from rlft import binding, parts, tokenizer, weights
from rlft.ops import sharding
from rlft.training import metrics, multihost, progress, store


def run(config: ml_collections.ConfigDict, run_dir: store.Where) -> None:
  """An analysis part offers `analyse` (a table) or `edits` (parameters).

  `analyse` ends in NAME.json and NAME.npz; `edits` in NAME.jsonl, one row per
  edited model with its evaluations, continued where it stopped.
  """
  with sharding.over(binding.build_mesh(config)):
    perform(config, run_dir)


def perform(config: ml_collections.ConfigDict, run_dir: store.Where) -> None:
  """The same, on the devices of the mesh that is set."""
  section = config.analysis.to_dict()
  name = section['name']
  module = parts.load('analyses', name)
  params = {
      role: weights.load(where)['policy']
      for role, where in config.checkpoints.items()}
  if hasattr(module, 'edits'):
    edits = parts.bind('analyses', 'edits', **section)(
        params['before'], params['after'])
    sweep(config, run_dir / f'{name}.jsonl', edits)
    return
  stored = {
      role: weights.fingerprints(where)
      for role, where in config.checkpoints.items()}
  table = parts.bind('analyses', 'analyse', **section)(
      params, before='before', after='after', stored=stored)
  curves = table.pop('curves')
  if not multihost.leads():
    return
  data = io.BytesIO()
  np.savez_compressed(data, **curves)
  store.replace(run_dir / f'{name}.npz', data.getvalue())
  compared = {k: str(v) for k, v in config.checkpoints.items()}
  text = json.dumps({**table, **compared}, indent=1) + '\n'
  store.replace(run_dir / f'{name}.json', text.encode())


def sweep(config, path: store.Where, edits) -> None:
  """Evaluates each edited model that has no row yet."""
  words = tokenizer.load(config.tokenizer, **config.get('chat', {}))
  _, model = binding.build_model(config.model, words)
  evaluations = binding.build_evaluations(config, model, words)
  metrics.truncate(path, 0)
  done = {r['edit'] for r in multihost.told(
      lambda: metrics.read(path) if store.exists(path) else [])}
  total = len(config.analysis.sweep)
  for edit in progress.track(edits, name=path.parent.name, total=total):
    if edit.label in done:
      continue
    params = {'policy': sharding.placed(edit.params)}
    row = {
        'step': 0, 'edit': edit.label, 'kind': edit.kind,
        'control': edit.control,
        'distance_to_sft': float(edit.distance_to_after),
        'distance_to_base': float(edit.distance_to_before)}
    for evaluation in evaluations:
      found, _ = evaluation.run(params)
      row |= split_row(found)
    metrics.append(path, row)


def split_row(found: dict) -> dict:
  """An evaluation's row as the columns of an edit's row."""
  name = found['eval']
  return {
      name: {k: found[k] for k in ('n', 'success', 'low', 'high')},
      f'{name}_solved': found['solved'],
      f'{name}_problems': found['problems'],
      f'outcomes_{name}': found['outcomes'],
      f'number_field_{name}': found['number_field']}


