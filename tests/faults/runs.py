"""Configs of the drills: small, but with everything that a run does.

`sft` and `rl`; `analysed` measures rotation in the loop, of one kind of matrix,
`replay` learns from earlier updates, too, `bare` evaluates nothing, `seeded`
has another seed, `deep` the two layers of tiny instead of one.
"""
import ml_collections

from rlft import presets
from tests import tiny


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  words = set(variant.split(','))
  config = tiny.rl_config(5) if 'rl' in words else tiny.sft_config(12)
  if 'deep' not in words:  # most of a drill is what comes before its first step
    config.model.update(
        preset='', shape={**presets.shape('tiny'), 'layers': 1})
  config.evaluate.every = 4
  config.checkpoint.every = 1 if 'rl' in words else 3
  config.seed = 1 if 'seeded' in words else 0
  if 'analysed' in words:
    config.analyses = dict(rotation=dict(
        every=12, draws=1, select='mlp/up/kernel'))
  if 'replay' in words:
    config.experience.update(name='replay', fresh=0.5, max_staleness=2)
  if 'bare' in words:
    config.evals = {}
  return config
