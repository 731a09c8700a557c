"""rlft: what SFT and RL do to a language model, and what an edit restores.

  rlft.run(config, run_dir)        a run or a study, as `rlft run`
  rlft.scores(checkpoint)          its evaluations, as `rlft eval`
  rlft.sampler(checkpoint)         prompt -> completion, as `rlft sample`
  rlft.compare(before, after)      how far the weight matrices turned
  rlft.heal(before, after, out)    the later one, edited back to the earlier
  rlft.write_report(study_dir)     the page, as `rlft report`
"""
import importlib
from typing import Any

__version__ = '0.1.0'
__all__ = ['compare', 'heal', 'run', 'sampler', 'scores', 'write_report']


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])


def __getattr__(name: str) -> Any:
  """The functions above, imported when first used: JAX takes a second."""
  if name in __all__:
    return getattr(importlib.import_module('rlft.api'), name)
  raise AttributeError(f'module rlft has no {name}')
