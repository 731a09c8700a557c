"""A study: several runs in order. A finished stage is not done again."""
import json
import statistics
import time
from pathlib import Path

import ml_collections

from rlft import analyze, check, directory, report, train
from rlft.training import disk, metrics, multihost, progress, store


def stage(
    role: str, config: ml_collections.ConfigDict, *, seed: int = 0,
    from_step: int | None = None,
) -> ml_collections.ConfigDict:
  """One stage; `init`, `base` and `checkpoints` may name others: 'sft@300'."""
  return ml_collections.ConfigDict(dict(
      role=role, seed=seed,
      from_step=ml_collections.config_dict.placeholder(int)
      if from_step is None else from_step, config=config))


def of(
    name: str, stages: dict[str, ml_collections.ConfigDict], **mesh: int,
) -> ml_collections.ConfigDict:
  """A study of these stages, in this order, all on one mesh: `config.mesh`."""
  made = ml_collections.ConfigDict(dict(  # which sorts its keys: hence `order`
      name=name, stages=stages, order=tuple(stages),
      mesh=dict(data=-1, fsdp=1, tensor=1) | mesh))
  for section in made.stages.values():
    section.config.mesh = ml_collections.ConfigDict(
        {axis: made.mesh.get_ref(axis) for axis in made.mesh})
  return made


def run(
    config: ml_collections.ConfigDict, study_dir: store.Where) -> store.Where:
  """Runs every stage, then the report; returns the path of the page."""
  done = {row['name']: row for row in read_stages(study_dir)}
  for name in config.order:
    section = config.stages[name]
    if done.get(name, {}).get('finished'):
      continue
    if peak_is_base(section.config, study_dir):
      progress.say(f'{name}: left out, OOD success is highest at step 0')
      continue
    run_dir = study_dir / name
    row = dict(name=name, role=section.role, seed=section.seed,
               from_step=section.from_step, finished=False,
               seconds=done.get(name, {}).get('seconds', 0.0))
    progress.say(f'{name}: started')
    began = time.monotonic()
    try:
      with directory.claim(run_dir):
        perform(section.config, config.stages, study_dir, run_dir)
      row['finished'] = True
    finally:  # an interrupted stage keeps the time that it has cost
      row['seconds'] += time.monotonic() - began
      done[name] = row
      write_stages(study_dir, list(done.values()))
    progress.say(f'{name}: {row["seconds"]:.0f} s')
  return finish(study_dir, done)


def speeds(study_dir: store.Where, names: list[str]) -> str:
  """Median speeds of SFT and of greedy sampling, from what was logged."""
  tokens, completions = [], []
  for run_dir in (study_dir / name for name in names):
    for file, column, into in (
        ('metrics.jsonl', 'tokens_per_second', tokens),
        ('evals.jsonl', 'completions_per_second', completions)):
      path = run_dir / file
      rows = metrics.read(path) if path.exists() else []
      into += [r[column] for r in rows[1:] if r.get(column)]
  if not tokens or not completions:
    return ''
  return (f'SFT {statistics.median(tokens):.0f} tokens/s, '
          f'sampling {statistics.median(completions):.0f} completions/s '
          '(medians, compilation left out)')


def finish(study_dir: store.Where, done: dict) -> store.Where:
  """Writes the report; it is no stage, so it is the same however often."""
  page = (report.write(study_dir) if multihost.leads()
          else study_dir / 'report.html')
  progress.say(speeds(
      study_dir, [n for n, row in done.items() if row['role'] == 'sft']))
  return page


def perform(
    config: ml_collections.ConfigDict, stages: ml_collections.ConfigDict,
    study_dir: store.Where, run_dir: store.Where,
) -> None:
  """A stage; its config.json names others as the study does: it may move."""
  directory.write_once(
      run_dir / 'config.json', resolve(config, stages, study_dir, Path()))
  execute(resolve(config, stages, study_dir), run_dir)


def execute(config: ml_collections.ConfigDict, run_dir: store.Where) -> None:
  """A run or an analysis."""
  if 'analysis' in config:
    analyze.run(config, run_dir)
  else:
    train.run(config, run_dir)


def resolve(
    config: ml_collections.ConfigDict, stages: ml_collections.ConfigDict,
    study_dir: store.Where, written_from: store.Where | None = None,
) -> ml_collections.ConfigDict:
  """A copy in which 'STAGE@STEP' names a run directory of this study.

  `written_from` is the study's directory; Path() gives names without it.
  """
  written_from = study_dir if written_from is None else written_from
  config = config.copy_and_resolve_references()

  def full(name):
    run, at, step = name.rpartition('@')
    if not at or run not in stages:
      return name
    if step == 'best_ood':
      step = str(best_ood(study_dir / run))
    return f'{written_from / run}@{step}'

  with config.unlocked():
    if 'analysis' in config:
      for role, name in config.checkpoints.items():
        config.checkpoints[role] = full(name)
    else:
      check.refuse_peak(config.init)
      config.init, config.base = full(config.init), full(config.base)
  return config


def peak_is_base(
    config: ml_collections.ConfigDict, study_dir: store.Where) -> bool:
  """Whether '@best_ood' is step 0, which is compared with anyway."""
  names = config.get('checkpoints', {}).values()
  return any(best_ood(study_dir / name.rpartition('@')[0]) == 0
             for name in names if name.endswith('@best_ood'))


def best_ood(run_dir: store.Where) -> int:
  """The step with the highest OOD success, step 0 included; first of ties."""
  rows = [r for r in multihost.told(
      lambda: metrics.read(run_dir / 'evals.jsonl')) if r['eval'] == 'ood']
  return max(rows, key=lambda r: (r['success'], -r['step']))['step']


def read_stages(study_dir: store.Where) -> list[dict]:
  """What was run so far."""
  path = study_dir / 'stages.json'
  return multihost.told(
      lambda: json.loads(path.read_text()) if path.exists() else [])


def write_stages(study_dir: store.Where, rows: list[dict]) -> None:
  """Replaces stages.json in one step."""
  if not multihost.leads():
    return
  path = study_dir / 'stages.json'
  with disk.writing(path):
    store.replace(path, (json.dumps(rows, indent=1) + '\n').encode())
