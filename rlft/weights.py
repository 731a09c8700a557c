"""Where parameters come from.

`asset:NAME` is shipped, `RUN_DIR@STEP` a checkpoint of a run, `hf:DIR` a
directory in the layout of Hugging Face.
"""
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import PyTree

from rlft import paths, tokenizer
from rlft.adapters import lora
from rlft.hf import architecture, reading
from rlft.ops import sharding, trees
from rlft.training import checkpoint, metrics, store

HF = 'hf:'


def load(name: object) -> PyTree:
  """Parameters {'policy': ...} of 'asset:NAME', 'hf:DIR' or 'RUN_DIR@STEP'.

  Adapters are merged into the policy.
  Raises ValueError for what is missing, truncated or not as its provenance
  file says.
  """
  name = spelled(name)
  if name.startswith('asset:'):
    return {'policy': load_asset(name.removeprefix('asset:'))}
  if name.startswith(HF):
    folder = paths.of_model(name)
    shapes = reading.shapes(folder)
    return {'policy': reading.params(
        folder, shapes, sharding.shardings(shapes))}
  found = lora.merge(checkpoint.load_params(name))
  return jax.tree.map(
      np.asarray if jax.sharding.get_mesh().empty else lambda x: x, found)


def spelled(name: object) -> str:
  """A checkpoint's name as a string; ValueError for what can be none."""
  if not isinstance(name, str | os.PathLike) or paths.is_odd(str(name)):
    raise ValueError(
        f'{name!r} names no checkpoint: write RUN_DIR@STEP, asset:NAME or '
        'hf:DIR')
  return str(name)


def fingerprints(name: str) -> dict[str, str]:
  """Path -> fingerprint of each tensor that the file of `name` holds.

  Read anew and on its own, to be held against what an analysis was given.
  """
  if name.startswith('asset:'):
    path = tokenizer.ASSETS / f'{name.removeprefix("asset:")}.safetensors'
    with safetensors.safe_open(path, framework='np') as file:
      return trees.fingerprints(
          {k: file.get_tensor(k) for k in file.keys()})  # noqa: SIM118
  return trees.fingerprints(load(name)['policy'])


def verify(name: str) -> None:
  """ValueError when `load` would not find these parameters."""
  if name.startswith('asset:'):
    load_asset(name.removeprefix('asset:'))
  elif name.startswith(HF):
    folder = paths.of_model(name)
    reading.plan(folder, {
        k: x.shape for k, x in trees.named(reading.shapes(folder)).items()})
  else:
    checkpoint.find(name)
    config_of(name)


def config_of(name: object) -> dict[str, Any]:
  """The config that these parameters were made with.

  Names of other stages in a stage's own config (`sft@20`) are made paths in
  the study that it lies in.
  """
  name = spelled(name)
  if name.startswith('asset:'):
    return provenance(name.removeprefix('asset:'))['config']
  if name.startswith(HF):
    shape = architecture.read(Path(name.removeprefix(HF))).shape
    return {'tokenizer': name, 'model': dict(
        name='transformer', preset='', dtype='float32', shape=shape)}
  run_dir, _ = checkpoint.split(name)
  config = checkpoint.run_config(run_dir)
  own = kept(run_dir)
  if own is not None:  # it may have been moved since
    config['tokenizer'] = f'{HF}{own}'
  return config | {
      key: located(config[key], run_dir) for key in ('init', 'base')
      if key in config}


def origin(name: str) -> Path:
  """The directory whose layout the weights of `name` go back to.

  ValueError for a model that was not made from such a directory.
  """
  start, seen = spelled(name), set()
  while start and start not in seen:  # a config.json may name itself
    seen.add(start)
    if start.startswith(HF):
      return Path(start.removeprefix(HF))
    if start.startswith('asset:'):
      break
    run_dir, _ = checkpoint.split(start)
    own = kept(run_dir)
    if own is not None:
      return own
    start = config_of(start).get('init', '')
  raise ValueError(
      f'{name} does not go back to a Hugging Face directory: give one of the '
      'same architecture, --like=HF_DIR')


def kept(run_dir: store.Where) -> Path | None:
  """What a run has of the directory that it was imported from, if anything.

  None in a bucket: tokenizers and layouts are read from directories.
  """
  own = run_dir / architecture.KEPT
  return own if not store.is_remote(run_dir) and own.is_dir() else None


def located(name: str, run_dir: store.Where) -> str:
  """'STAGE@STEP' as a path, if RUN_DIR is a stage of a study with that one."""
  stage, at, step = name.rpartition('@')
  for folder in store.above(run_dir) if at else ():
    if paths.is_below(stage) and (folder / 'stages.json').is_file() and (
        folder / stage).is_dir():
      return f'{folder / stage}@{step}'
  return name


def step_of(name: str) -> int:
  """The step that these parameters were saved at."""
  if name.startswith('asset:'):
    return int(provenance(name.removeprefix('asset:'))['step'])
  if name.startswith(HF):
    return 0
  return checkpoint.resolve_step(name)


def provenance(asset: str) -> dict[str, Any]:
  """How a shipped model was made; ValueError lists the ones there are."""
  path = tokenizer.ASSETS / f'{asset}.json'
  if not paths.is_name(asset) or not path.is_file():
    known = sorted(p.stem for p in tokenizer.ASSETS.glob('*.safetensors'))
    raise ValueError(
        f'no asset {asset!r}; known: {", ".join(known) or "none"}')
  try:
    about = json.loads(path.read_bytes())
    return {**about, 'sha256': about['sha256'], 'config': about['config']}
  except (ValueError, TypeError, KeyError) as error:
    raise ValueError(
        f'{path} is damaged: install the package again') from error


def load_asset(asset: str) -> PyTree:
  """The tree of a shipped safetensors file, checked against its sha256."""
  path = tokenizer.ASSETS / f'{asset}.safetensors'
  expected = provenance(asset)['sha256']
  if not path.is_file():
    raise ValueError(f'{path} is missing: install the package again')
  found = hashlib.sha256(path.read_bytes()).hexdigest()
  if found != expected:
    raise ValueError(
        f'{path} is damaged (its sha256 is not that of its provenance file): '
        'install the package again')
  return nest(safetensors.numpy.load_file(path))


def save_asset(path: Path, params: PyTree, about: dict[str, Any]) -> None:
  """Writes PATH.safetensors, and PATH.json with `about` and the sha256."""
  file = path.with_suffix('.safetensors')
  temporary = path.with_suffix('.safetensors.tmp')
  safetensors.numpy.save_file(flatten(params), temporary)
  temporary.replace(file)
  digest = hashlib.sha256(file.read_bytes()).hexdigest()
  path.with_suffix('.json').write_text(
      json.dumps({**about, 'sha256': digest}, indent=1) + '\n')


def flatten(params: PyTree) -> dict[str, np.ndarray]:
  """{'layers/mlp/up/kernel': array} of a nested dict."""
  return {k: np.ascontiguousarray(v) for k, v in trees.named(params).items()}


def nest(flat: dict[str, Any]) -> PyTree:
  """The inverse of `flatten`."""
  tree: dict[str, Any] = {}
  for path, leaf in flat.items():
    *folders, name = path.split('/')
    at = tree
    for folder in folders:
      at = at.setdefault(folder, {})
    at[name] = leaf
  return tree


def match(params: PyTree, like: PyTree, name: str) -> PyTree:
  """`params`, if names and shapes are those of `like`; else ValueError."""
  have = {k: v.shape for k, v in trees.named(params).items()}
  want = {k: v.shape for k, v in trees.named(like).items()}
  if have != want:
    wrong = sorted(
        k for k in have.keys() | want.keys() if have.get(k) != want.get(k))
    k = wrong[0]
    raise ValueError(
        f'{name} does not fit the model in {len(wrong)} of its parameters: '
        f'{k} is {have.get(k, "missing")}, the model wants '
        f'{want.get(k, "none")}; set the model section to the one it was '
        'made with')
  return params


def ship(checkpoint_name: str, asset: str) -> Path:
  """Makes an asset of a run's checkpoint; its scores are the run's own."""
  run_dir, _ = checkpoint.split(checkpoint_name)
  step = checkpoint.resolve_step(checkpoint_name)
  log = metrics.read(run_dir / 'evals.jsonl')
  scores = [{k: v for k, v in row.items() if k not in ('solved', 'problems')}
            for row in log if row['step'] == step]
  config = checkpoint.run_config(run_dir)
  git = (run_dir / 'git.txt').read_text().split('\n')
  path = tokenizer.ASSETS / asset
  params = load(f'{run_dir}@{step}')['policy']
  save_asset(path, params, {
      'step': step, 'seed': config['seed'],
      'commit': git[0], 'changed_since_commit': len(git) > 2,
      'scores': scores, 'config': config,
      'note': 'held-out multisets are kept out of whole games; the bare-number '
      'skill covers every multiset, as the pre-training of a large model does'})
  return path.with_suffix('.safetensors')


if __name__ == '__main__':  # python -m rlft.weights RUN_DIR@STEP NAME
  print(ship(*sys.argv[1:]))
