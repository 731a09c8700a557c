"""What was run: the study's config, command, commit and the model's size."""
import re
from typing import Any

import jax
import ml_collections

from rlft import binding, tokenizer
from rlft.report import files
from rlft.report.tables import Tables
from rlft.training import store


def about(study_dir: store.Where, tables: Tables) -> dict[str, Any]:
  """config, study, command, git, model {name, parameters} and warnings."""
  log = files.Log(study_dir, [])
  config = files.section(study_dir / 'config.json', log)
  runs = [files.section(study_dir / stage['name'] / 'config.json', log)
          for stage in tables['stages']]
  found = _model([config, *runs])
  if found['parameters'] is None:
    log.warnings.append('the size of the model cannot be told from the config')
  command = files.text(study_dir / 'command.txt')
  return {'config': config or None, 'model': found,
          'study': study(config, command),
          'command': command,
          'git': files.text(study_dir / 'git.txt'),
          'warnings': log.warnings}


def study(config: dict[str, Any], command: str) -> str:
  """What was studied: the task and the config with its variant."""
  name = str(config.get('name') or '')
  named = re.search(r'--config[= ]\S*?([\w.-]+\.py(?::[\w,]+)?)', command)
  return ', '.join(word for word in (name, named and named[1]) if word)


def _model(sections):
  """The first model named, and its size: as recorded, or counted."""
  named = [s for s in sections if isinstance(s.get('model'), dict)]
  if not named:
    return {'name': None, 'parameters': None}
  model = named[0]['model']
  words = [str(model[key]) for key in ('name', 'preset') if model.get(key)]
  recorded = [files.number(size) for s in named
              for size in (s.get('parameters'), s['model'].get('parameters'))]
  sizes = [int(size) for size in recorded if size]
  sizes = sizes or [size for s in named if (size := parameters(s))]
  return {'name': ' '.join(words) or None,
          'parameters': sizes[0] if sizes else None}


def parameters(config: dict[str, Any]) -> int | None:
  """The number of parameters of a run's model, without making any.

  None if the config has no model and tokenizer that this version can build.
  """
  if 'tokenizer' not in config:
    return None
  try:
    family, model = binding.build_model(
        ml_collections.ConfigDict(config['model']),
        tokenizer.load(config['tokenizer'], **config.get('chat', {})))
  except (ValueError, KeyError, AttributeError, OSError):
    return None
  shapes = jax.eval_shape(
      lambda key: family.initialise(model, key), jax.random.key(0))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))
