"""Configs: overrides, variants and names of files, `KIND\\x1fREST`.

key     KEY=VALUE, an override of a run, an analysis or a study
load    the same, of a config file that is read anew
variant words of a variant
file    PATH.py:VARIANT
"""
import json
import pathlib
from collections.abc import Callable

import ml_collections

from rlft import config as door
from tests import tiny
from tests.fuzz import rules

KINDS = ('key', 'load', 'variant', 'file')
WORDS = ('smoke', 'full', 'small')
FILE = '''
import tests.tiny
from rlft import config as door

def get_config(variant=''):
  words = door.variants(variant, ('smoke', 'full', 'small'))
  config = tests.tiny.rl_config()
  config.num_steps = 8 if 'full' in words else 4
  return config
'''


def study() -> ml_collections.ConfigDict:
  """Two stages, one of them an analysis."""
  analysis = dict(analysis=dict(name='rotation', top=0.2),
                  checkpoints=dict(before='sft@0', after='sft@4'))
  stage = lambda config: dict(role='sft', seed=0, from_step=None, config=config)
  return ml_collections.ConfigDict(dict(
      name='toy', order=('sft', 'rotation'), stages=dict(
          sft=stage(tiny.sft_config()), rotation=stage(analysis))))


def read(config: ml_collections.ConfigDict, key: str):
  """The value of a dotted key."""
  for part in key.split('.'):
    config = config[part]
  return config


def make(folder: pathlib.Path) -> Callable[[str], str]:
  """See `targets`."""
  file = folder / 'toy.py'
  file.write_text(FILE)
  configs = [tiny.rl_config(), study()]

  def key(text):
    name, _, value = text.partition('=')
    config = configs[name.startswith(('stages', 'order', 'name'))]
    door.override(config, name, value)
    changed = read(config, name)
    before = read(fresh[config is configs[1]], name)
    try:
      rules.require(
          None in (before, changed) or type(changed) is type(before),
          f'{name}: {type(before).__name__} became {type(changed).__name__}')
      door.validate(config)
      rules.require(door.from_dict(json_of(config)).to_dict()
                    == plain(config.to_dict()), 'config.json has another')
    finally:
      at, _, last = name.rpartition('.')
      section = read(config, at) if at else config
      del section[last]  # whatever its type has become
      section[last] = before
    return 'set'

  def load(text):
    name, _, value = text.partition('=')
    door.load(str(file), {name: value})
    return 'loaded'

  def variant(text):
    rules.require(door.variants(text, WORDS) <= set(WORDS), 'unknown words')
    return 'words'

  def named(text):
    path, _, rest = text.partition(':')
    place = file if path == 'toy.py' else folder / path.lstrip('/')
    door.load(f'{place}:{rest}', {})
    return 'loaded'

  fresh = [tiny.rl_config(), study()]
  calls = dict(zip(KINDS, (key, load, variant, named), strict=True))

  def call(text):
    kind, _, rest = text.partition('\x1f')
    return calls.get(kind, key)(rest)
  return call


def plain(value):
  """Lists are tuples in a config that is read again."""
  if isinstance(value, dict):
    return {k: plain(v) for k, v in value.items()}
  return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


def json_of(config: ml_collections.ConfigDict) -> dict:
  """What goes into the run directory, read again."""
  return json.loads(door.to_json(config))
