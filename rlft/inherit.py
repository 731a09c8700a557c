"""What a config leaves to the checkpoint that it starts from.

`model.preset = ''` without a shape means the model of `init`, and `tokenizer =
''` its tokenizer, with what its template was told (`chat`) unless that is said.
They are filled in before a run begins: its config is complete by itself.
"""
from typing import Any

import ml_collections

from rlft import weights


def fill(config: ml_collections.ConfigDict) -> None:
  """Completes a run, an analysis or every stage of a study, in place.

  ValueError when something is missing and there is nothing to take it from.
  """
  if 'stages' not in config:
    _complete(config, {})
    return
  known = {}
  for name in config.order:
    section = config.stages[name].config
    try:
      _complete(section, known)
    except ValueError as error:
      raise ValueError(f'stage {name}: {error}') from error
    known[name] = section


def _complete(
    config: ml_collections.ConfigDict, known: dict[str, Any]) -> None:
  """`known` are earlier stages of a study, by name."""
  open_model = 'model' in config and not (
      config.model.get('preset') or config.model.get('shape'))
  open_words = 'tokenizer' in config and not config.tokenizer
  if not open_model and not open_words:
    return
  origin = config.get('init') or config.get('checkpoints', {}).get('before')
  if not origin:
    raise ValueError(
        'config.model has neither a preset nor a shape, or config.tokenizer is '
        'empty, and there is no init to take them from: set them')
  stage = origin.rpartition('@')[0]
  made = known[stage] if stage in known else weights.config_of(origin)
  with config.unlocked():
    if open_model:
      own = {'dtype': 'float32', 'remat': 'none', **config.model.to_dict()}
      config.model = {**dict(made['model']), **{
          k: own[k] for k in ('dtype', 'remat')}}  # how it computes
    if open_words:
      config.tokenizer = made['tokenizer']
      if not config.get('chat'):  # the same words, opened as they were
        config.chat = dict(made.get('chat', {}))
