"""The door: a config file, a variant and overrides become one ConfigDict."""
import ast
import difflib
import importlib.util
import json
import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_collections

from rlft import paths

EMPTY = ml_collections.ConfigDict
STUDY = ('name', 'stages', 'order', 'mesh', 'comparison')
STAGE = ('role', 'seed', 'from_step', 'config')
# files of the study itself, which no stage can be
OWN = ('config.json', 'command.txt', 'git.txt', 'machine.txt', 'stages.json',
       'stages.json.tmp', 'report.html', 'summary.json')
TABLE = ('analysis', 'checkpoints', 'mesh')  # an analysis that makes a table
SWEEP = (  # and one that makes edits
    *TABLE, 'tokenizer', 'chat', 'model', 'init', 'base', 'evals', 'decoding')


def skeleton() -> ml_collections.ConfigDict:
  """Every section of a run, with its neutral value; unknown keys raise."""
  config = ml_collections.ConfigDict(dict(
      seed=0,
      num_steps=0,  # batches of experience: updates in RL
      init='',  # 'asset:NAME', 'RUN_DIR@STEP', or '' for fresh parameters
      base='',  # what kl_to_base is measured from; '' is init
      tokenizer='asset:points24',  # or 'hf:DIR', a model's own
      chat=EMPTY(),  # what its chat template is told: date_string, ...
      critic=False,  # a separate value model beside the policy
      # rank 0: none; select: a regex on kernels, '' for all of the blocks
      lora=dict(rank=0, alpha=16.0, select=''),
      # a preset, or the fields of a shape; neither: as the model of init
      model=dict(name='transformer', preset='nano', dtype='float32',
                 remat='none', shape=EMPTY()),
      env=EMPTY(),
      evals=EMPTY(),
      experience=EMPTY(),
      decoding=EMPTY(),  # the rule that samples are drawn under; empty: none
      objective=EMPTY(),
      advantages=EMPTY(),
      passes=EMPTY(),  # epochs and minibatches of each rollout
      optimizer=EMPTY(),
      analyses=EMPTY(),  # of the parameters in the loop: observe.py
      evaluate=dict(steps=(), every=0),
      checkpoint=dict(steps=(), every=0, keep=0),  # keep=0 keeps all
      log=dict(every=10),
      mesh=dict(data=-1, fsdp=1, tensor=1),  # ops/sharding.py; -1: the rest
      limits=dict(skipped=5) | dict.fromkeys((  # 0 is none: ops/alarms.py
          'max_kl', 'max_ratio', 'min_entropy', 'max_zero_spread', 'max_empty',
          'max_truncated', 'max_unjudged'), 0.0),
  ))
  return config


def load(name: str, overrides: dict[str, Any]) -> ml_collections.ConfigDict:
  """`PATH.py` or `PATH.py:VARIANT`, with `--config.a.b=value` overrides.

  Raises ValueError, listing what there is, for a missing file, an unknown
  variant, an unknown key or a value of another type.
  """
  path, _, variant = name.partition(':')
  try:
    config = module(path).get_config(variant)
  except (ValueError, OSError):
    raise
  except (Exception, SystemExit) as error:  # whatever the file does
    raise ValueError(
        f'{path} gives no config: {type(error).__name__}: {error} '
        '(RLFT_TRACEBACK=1 tells where)') from error
  for key, text in overrides.items():
    override(config, key, text)
  validate(config)
  return config.lock()


def module(path: str) -> ModuleType:
  """The config file as a module; it may import others from the same tree."""
  file = Path(path)
  if file.suffix != '.py' or not file.is_file():
    raise ValueError(f'no config file at {paths.shown(path)}')
  spec = importlib.util.spec_from_file_location(f'config_{file.stem}', file)
  loaded = importlib.util.module_from_spec(spec)
  for parent in file.resolve().parents:  # `from configs.general_points import`
    if parent.name == 'configs' and str(parent.parent) not in sys.path:
      sys.path.append(str(parent.parent))
  spec.loader.exec_module(loaded)
  return loaded


def variants(text: str, known: tuple[str, ...]) -> set[str]:
  """Comma-joined words of a variant; ValueError lists the known ones."""
  words = {w for w in text.split(',') if w}
  unknown = sorted(words - set(known))
  if unknown:
    raise ValueError(f'no variant {paths.shown(", ".join(unknown))}; known: '
                     f'{", ".join(known)}')
  return words


def override(config: ml_collections.ConfigDict, key: str, text: Any) -> None:
  """Sets one existing key, as the type that it has; text is read as one."""
  if paths.is_odd(key):
    raise ValueError(f'no key is called {paths.shown(key)}')
  *folders, last = key.split('.')
  at = config
  for part in folders:
    at = _child(at, part, key)
    if not isinstance(at, ml_collections.ConfigDict):
      raise ValueError(f'config.{key}: {part} is a value, not a section')
  old = _child(at, last, key)
  value = _value(text, old, key) if isinstance(text, str) else text
  try:
    at[last] = value
  except (TypeError, OverflowError) as error:
    raise ValueError(
        f'config.{key}={paths.shown(repr(text))}: give '
        f'{WORDS.get(type(old), type(old).__name__)}') from error


def _child(at: ml_collections.ConfigDict, name: str, key: str) -> Any:
  if name not in at:
    near = difflib.get_close_matches(name, list(at.keys()), 1)
    hint = f'; did you mean {near[0]}?' if near else ''
    raise ValueError(
        f'no config.{paths.shown(key)}: known here: '
        f'{", ".join(sorted(at.keys()))}{hint}')
  return at[name]


WORDS = {
    bool: 'True or False', int: 'a whole number', float: 'a number',
    tuple: 'values with commas in between', str: 'a word',
    EMPTY: 'a section: dict(...)'}


def _value(text: str, old: Any, key: str) -> Any:
  if isinstance(old, str):
    return text
  if isinstance(old, ml_collections.ConfigDict):
    raise ValueError(f'config.{key} is a section: set one of its keys')
  try:
    with warnings.catch_warnings():  # of Python about the text as a program
      warnings.simplefilter('ignore')
      value = ast.literal_eval(text)
    # to Python a bool is an int, to a reader of config.json it is none
    if not _plain(value) or (isinstance(value, bool) and isinstance(
        old, int | float) and not isinstance(old, bool)):
      raise ValueError('config.json could not hold it')
  except (ValueError, TypeError, SyntaxError, MemoryError,
          RecursionError) as error:  # a TypeError: {[]: 1}
    kind = 'a plain value' if old is None else WORDS.get(
        type(old), type(old).__name__)
    raise ValueError(
        f'config.{key}={paths.shown(repr(text))}: give {kind}') from error
  if isinstance(old, tuple) and not isinstance(value, tuple):
    value = (value,)
  return value


def _plain(value: Any) -> bool:
  """Whether it comes back from config.json as it is."""
  if isinstance(value, dict):
    return all(isinstance(k, str) and k.isidentifier() and _plain(v)
               for k, v in value.items())
  if isinstance(value, tuple | list):
    return all(map(_plain, value))
  if isinstance(value, int):
    return -2**63 <= value < 2**64  # Python prints no int of any length
  return value is None or isinstance(value, float | str)


def validate(config: ml_collections.ConfigDict) -> None:
  """No unknown section, no number that is not finite, no negative size."""
  if 'stages' in config:
    _validate_study(config)
    return
  if 'analysis' in config:
    known_keys(config, SWEEP, 'section of an analysis')
  else:
    full = skeleton()
    _same_keys(config, full, 'section')
    for name in ('lora', 'evaluate', 'checkpoint', 'log'):
      _same_keys(config[name], full[name], f'key of config.{name}')
    if config.log.every == 0:
      raise ValueError('config.log.every is 0: give a whole number from 1')
  for name, value in config.get('evals', {}).items():
    _same_type(value, EMPTY(), f'evals.{name}')
  _finite(config.to_dict(), 'config')


def _validate_study(config: ml_collections.ConfigDict) -> None:
  known_keys(config, STUDY, 'key of a study')
  stages = config.stages
  order = config.get('order', ())
  if not all(isinstance(name, str) for name in order) or (
      sorted(order) != sorted(stages.keys())):
    raise ValueError(
        "a study's order names each of its stages once: "
        f'{", ".join(stages.keys())}')
  for name, stage in stages.items():
    _stage_name(name, stages)
    known_keys(stage, STAGE, f'key of stage {name}')
    try:
      validate(stage.config)
    except ValueError as error:
      raise ValueError(f'stage {name}: {error}') from error


def _stage_name(name: str, stages: ml_collections.ConfigDict) -> None:
  """ValueError for a stage that has no folder of its own in the study."""
  paths.below(name, 'the stage')
  if name.split('/')[0] in OWN:
    raise ValueError(f'the stage {name} would lie where the study has a file '
                     'of its own: call it otherwise')
  for other in stages:
    if name.startswith(f'{other}/'):
      raise ValueError(f'the stage {name} would lie inside the stage {other}: '
                       'call it otherwise')


def known_keys(
    config: ml_collections.ConfigDict, known: Sequence[str], what: str,
) -> None:
  """ValueError for a key that nothing reads."""
  unknown = sorted(set(config.keys()) - set(known))
  if unknown:
    raise ValueError(f'no {what} is called {", ".join(unknown)}; '
                     f'known: {", ".join(sorted(known))}')


def _same_keys(
    config: ml_collections.ConfigDict, full: ml_collections.ConfigDict,
    what: str) -> None:
  known_keys(config, list(full.keys()), what)
  missing = sorted(set(full.keys()) - set(config.keys()))
  if missing:
    raise ValueError(f'the {what} {missing[0]} is missing: begin a config '
                     'with rlft.config.skeleton()')
  for name, value in full.items():
    _same_type(config[name], value, f'{what.rpartition(".")[2]}.{name}'
               if '.' in what else name)


def _same_type(value: Any, like: Any, name: str) -> None:
  kind = (tuple, list) if isinstance(like, tuple) else type(like)
  if not isinstance(value, kind):
    raise ValueError(
        f'config.{name} is {value!r}: give {WORDS[type(like)]}')


def from_dict(tree: dict[str, Any]) -> ml_collections.ConfigDict:
  """The config that `to_json` wrote; lists are tuples again."""

  def thaw(value):
    if isinstance(value, dict):
      return {k: thaw(v) for k, v in value.items()}
    return tuple(map(thaw, value)) if isinstance(value, list) else value

  return ml_collections.ConfigDict(thaw(tree)).lock()


LEAST = dict.fromkeys((  # whole numbers
    'rows', 'prompts', 'group', 'tries', 'independent', 'length', 'epochs',
    'minibatches', 'max_new_tokens', 'n', 'draws', 'max_batches', 'workers'
), 1) | dict.fromkeys((
    'num_steps', 'every', 'keep', 'kl', 'kl_fixed', 'entropy', 'mistakes',
    'warmup_steps', 'horizon', 'top_k', 'rank', 'skipped', 'sample_rows',
    'slots', 'max_staleness', 'prompt_length'), 0)
NOT_NEGATIVE = ('temperature', 'learning_rate', 'critic_learning_rate',
                'weight_decay', 'clip_norm')  # and limits


def _finite(tree: dict[str, Any], where: str) -> None:
  for key, value in tree.items():
    name = f'{where}.{key}'
    if isinstance(value, dict):
      _finite(value, name)
    elif any(isinstance(x, float) and not math.isfinite(x)
             for x in (value if isinstance(value, tuple) else (value,))):
      raise ValueError(f'{name} is {value}: give a finite number')
    elif key in LEAST and (type(value) is not int or value < LEAST[key]):
      raise ValueError(
          f'{name} is {value}: give a whole number from {LEAST[key]}')
    elif (key in NOT_NEGATIVE or where == 'config.limits') and (value or 0) < 0:
      raise ValueError(f'{name} is {value}: give a number from 0')


def to_json(config: ml_collections.ConfigDict) -> str:
  """The resolved config, as it goes into the run directory."""
  return json.dumps(
      json.loads(config.to_json_best_effort()), indent=1) + '\n'
