"""Names that become paths, `KIND\\x1fREST`, in a folder that must not change.

stage       a stage of a study
run         --run_dir or --out
checkpoint  RUN_DIR@STEP, asset:NAME, hf:DIR
tokenizer   asset:NAME, hf:DIR or the path of a file
part        a file of a flat folder of rlft, by its name in a config
"""
import json
import os
import pathlib
from collections.abc import Callable

from rlft import config as door
from rlft import parts, tokenizer, weights
from rlft.training import checkpoint, store
from tests.fuzz import rules, settings

KINDS = ('stage', 'run', 'checkpoint', 'tokenizer', 'part')
FOLDERS = ('objectives', 'envs', 'analyses', 'models', 'decoding')


def stage(root: pathlib.Path, text: str) -> str:
  """Accepted names are folders directly below the study, and stay there."""
  config = settings.study()
  sections = config.stages.to_dict()
  first = next(iter(sections))
  try:
    config.stages = {text: sections[first]}
  except (ValueError, TypeError, AttributeError):  # no key of a ConfigDict
    return 'no key'
  config.order = (text,)
  door.validate(config)
  place = root / text
  rules.require(place.is_relative_to(root) and place != root
                and os.path.normpath(place) == str(place), f'{text!r} escapes')
  rules.require(text.isascii() and not text.startswith('-'), f'{text!r}')
  return 'a stage'


def run(root: pathlib.Path, text: str) -> str:
  """Accepted directories could be made, and told in a message."""
  found = store.chosen(text, '--run_dir')
  if store.is_remote(found):
    rules.require(str(found) == text.rstrip('/') and '..' not in text,
                  f'{text!r} is {found}')
  last = os.path.basename(os.path.abspath(found))
  rules.require(not last.startswith('-') and '\n' not in last
                and '\0' not in text, f'{text!r}')
  os.fsencode(found)
  return 'a directory'


def checkpoints(root: pathlib.Path, text: str) -> str:
  """What is found is a committed step below the run."""
  if text.startswith('asset:'):
    about = weights.provenance(text.removeprefix('asset:'))
    rules.require('/' not in text and about['sha256'], f'{text!r}')
    return 'an asset'
  if text.startswith(weights.HF):
    weights.config_of(text)
    return 'a directory'
  if store.is_remote(text):  # nobody is asked
    run_dir, _ = checkpoint.split(text)
    rules.require(text.startswith(f'{run_dir}'), f'{text!r} is {run_dir}')
    return 'a name in a bucket'
  found = checkpoint.find(text)
  rules.require(found.parent.parent.name == 'checkpoints'
                and found.is_dir(), f'{text!r} is {found}')
  weights.config_of(text)
  try:
    weights.origin(text)
  except ValueError as error:  # of no run here
    rules.refusal(error)
  return 'a checkpoint'


def words(root: pathlib.Path, text: str) -> str:
  """A tokenizer is loaded from the assets, or not at all."""
  if text.startswith('asset:points24'):
    text = f'asset:{text.removeprefix("asset:points24")}'  # it takes long
  tokenizer.load(text)
  raise AssertionError(f'{text!r} is a tokenizer')


def part(root: pathlib.Path, text: str) -> str:
  """Only files of the folder are imported."""
  folder, _, name = text.partition('/')
  if folder not in FOLDERS:
    folder = 'objectives'
  loaded = parts.load(folder, name)
  rules.require(loaded.__name__ == f'rlft.{folder}.{name}', loaded.__name__)
  return 'a part'


def make(folder: pathlib.Path) -> Callable[[str], str]:
  """See `targets`; the work is done in `folder`."""
  os.chdir(folder)
  root = folder.resolve()
  for name, init in (('run', ''), ('circle', 'circle@2'),
                     ('other', 'circle@2')):
    step = folder / name / 'checkpoints' / '000002'
    (step / 'params').mkdir(parents=True, exist_ok=True)
    (step / 'commit_success.txt').touch()
    (folder / name / 'config.json').write_text(
        json.dumps({'tokenizer': 'asset:points24', 'init': init, 'base': ''}))
  (folder / 'out').mkdir(exist_ok=True)
  calls = dict(zip(KINDS, (stage, run, checkpoints, words, part), strict=True))
  for flat in FOLDERS:  # an import may take longer than an answer
    for name in parts.names(flat):
      parts.load(flat, name)
  before = tree(folder)

  def call(text):
    kind, _, rest = text.partition('\x1f')
    try:
      return calls.get(kind, run)(root, rest)
    finally:
      if hash(text) % 64 == 0:  # a look at everything costs more than a call
        rules.require(tree(folder) == before, 'something was made')
  return call


def tree(folder: pathlib.Path) -> list[str]:
  """All that is there."""
  return sorted(str(p) for p in folder.rglob('*'))
