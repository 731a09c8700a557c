"""The Python functions behind the commands."""
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from rlft import (
    binding,
    check,
    checkpoints,
    comparison,
    directory,
    episodes,
    healing,
    inherit,
    report,
    study,
    tokenizer,
    train,
    weights,
)
from rlft import config as door
from rlft.analyses import rotation
from rlft.report import comparison as report_comparison
from rlft.training import multihost, progress, store


def run(
    config: str | Path | ml_collections.ConfigDict, run_dir: str | store.Where,
    **overrides: Any,
) -> store.Where:
  """Runs a config file (or a ConfigDict) in a directory; goes on if begun.

  `overrides` are keys of a config file: `num_steps=3`, or with dots
  `**{'optimizer.learning_rate': 1e-4}`. Returns the path of the report of a
  study, the run directory of a run.
  """
  named = 'a ConfigDict, see config.json' if isinstance(
      config, ml_collections.ConfigDict) else str(config)
  options = ''.join(f', {k}={v!r}' for k, v in overrides.items())
  return start(config, run_dir, overrides, command=(
      f'rlft.run({named!r}, {str(run_dir)!r}{options})  # from Python'))


def start(
    config: str | Path | ml_collections.ConfigDict, run_dir: str | store.Where,
    overrides: dict[str, Any], *, command: str,
) -> store.Where:
  """`run`; `command` is what was called, for the record."""
  run_dir = store.chosen(run_dir, '--run_dir')
  if not isinstance(config, ml_collections.ConfigDict):
    config = door.load(str(config), overrides)
  elif overrides:
    raise ValueError(
        f'{", ".join(overrides)} beside a ConfigDict: set the keys in it')
  else:
    door.validate(config)
  inherit.fill(config)
  if jax.process_count() > 1:
    multihost.agree(train.program(config))
  is_study = 'stages' in config
  if is_study:
    check.study(config)
  elif 'analysis' in config:
    check.analysis(config)
  else:
    check.run(config)
  with directory.claim(run_dir):
    directory.write_once(run_dir / 'config.json', config)
    directory.explain(run_dir, command)
    if is_study:
      return study.run(config, run_dir)
    study.execute(config, run_dir)
  return run_dir


def scores(
    checkpoint: str, *, config: str | None = None, **overrides: Any,
) -> list[dict]:
  """The evaluations of a config (the checkpoint's own by default)."""
  if config is None:
    section = door.from_dict(weights.config_of(checkpoint))
    for key, text in overrides.items():
      door.override(section, key, text)
  else:
    section = door.load(config, overrides)
  if not section.get('evals'):
    raise ValueError(
        f'{config or f"the config of {checkpoint}"} has no evals: give the '
        'config of a run that has some, --config=...')
  words, model, params = open_checkpoint(checkpoint)
  return [
      evaluation.run(params)[0]
      for evaluation in binding.build_evaluations(section, model, words)]


def open_checkpoint(
    checkpoint: str) -> tuple[tokenizer.Tokenizer, Any, dict]:
  """Tokenizer, model and {'policy': ...} of a checkpoint."""
  section = door.from_dict(weights.config_of(checkpoint))
  words = tokenizer.load(section.tokenizer, **section.get('chat', {}))
  family, model = binding.build_model(section.model, words)
  like = jax.eval_shape(
      lambda key: family.initialise(model, key), jax.random.key(0))
  policy = weights.match(
      weights.load(checkpoint)['policy'], like, checkpoint)
  return words, model, {'policy': jax.tree.map(jnp.asarray, policy)}


def sampler(
    checkpoint: str, *, temperature: float = 0.0, max_new_tokens: int = 20,
    seed: int = 0, decoding: Mapping[str, Any] | None = None,
) -> Callable[[str], str]:
  """prompt -> completion; the n-th call uses the n-th key.

  `decoding` is a rule: `dict(name='truncated', top_k=20)`. Words that the
  vocabulary lacks are named on standard error. ValueError for an empty prompt,
  or a rule at temperature 0, where it would change nothing.
  """
  if decoding and temperature == 0:
    raise ValueError(
        'decoding changes nothing at temperature 0: set one above 0')
  words, model, params = open_checkpoint(checkpoint)
  complete = episodes.completer(
      model, pad=words.pad, stops=words.stops,
      max_new_tokens=max_new_tokens, temperature=temperature,
      rows=1, decoding=tuple((decoding or {}).items()))
  keys = iter(range(2**31))

  def talk(prompt: str) -> str:
    if not words.encode(prompt):
      raise ValueError('the prompt is empty: give some words')
    unknown = words.unknown(prompt)
    if unknown:
      progress.say(f'rlft: the model has no token for {" ".join(unknown)}: '
                   'read as <unk>')
    key = jax.random.fold_in(jax.random.key(seed), next(keys))
    new, _ = complete(params, [words.opening(prompt)], key[None])
    return words.decode(new[0])

  return talk


def compare(
    before: str | Path, after: str | Path, out: str | Path | None = None,
    **options: Any,
) -> dict:
  """How far the weights turned between two checkpoints: rows and curves.

  Of two runs, `analyses/rotation.py` on them. Of directories of safetensors,
  or with a directory `out`, `comparison.run`: one matrix in memory at a time,
  and with `out` the files of `rlft compare`, 'page' being the path of its
  compare.html.
  """
  before, after = str(before), str(after)
  if out is not None:
    found = comparison.run(before, after, out, **options)
    return {**found, 'page': report_comparison.write(Path(out))}
  if not (checkpoints.is_run(before) and checkpoints.is_run(after)):
    return comparison.run(before, after, **options)
  names = {'before': before, 'after': after}
  trees = {role: weights.load(name)['policy'] for role, name in names.items()}
  weights.match(trees['after'], trees['before'], after)
  stored = {role: weights.fingerprints(name) for role, name in names.items()}
  return rotation.analyse(
      trees, before='before', after='after', stored=stored, **options)


def heal(
    before: str | Path, after: str | Path, out: str | Path, **options: Any,
) -> dict:
  """Writes `after` edited towards `before`, as `rlft heal`: `healing.run`."""
  return healing.run(str(before), str(after), out, **options)


def write_report(study_dir: str | store.Where) -> store.Where:
  """report.html and summary.json of a study; the path of the page."""
  study_dir = store.where(study_dir)
  if not (study_dir / 'stages.json').is_file():
    raise ValueError(f'no stages.json in {study_dir}: not a study directory')
  return report.write(study_dir)
