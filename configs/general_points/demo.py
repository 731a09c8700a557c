"""The study: what SFT broke, what RL mended, what a cheap edit restores.

rlft run --config=configs/general_points/demo.py --run_dir=runs/demo

Base -> SFT with log-spaced checkpoints -> PPO from SFT checkpoints that are
named here, under a budget that is named in rl.py -> rotation -> restoration ->
report. One seed, greedy, first try: minutes on two cores. `:full` is three
seeds, the whole panel, longer SFT and RL, and more edits: hours. `:small` is
the same with a model of 12 M parameters (pre-train it first: pretrain.py:small
into runs/pretrain_small). `:smoke` runs every stage in a minute and measures
nothing.
"""
from ml_collections import ConfigDict

from configs.general_points import pretrain, restore, rl, rotation, sft
from rlft import config as door
from rlft import study

# Named before any SFT curve was seen: meant as one inside the fall of OOD
# success and one at its end; 80 turned out to lie before the fall. So :full has
# 200 as well, added when the curve had been seen, but no RL run from there.
STARTS = (80, 300)
FULL_STARTS = (0, 80, 200, 600)
KL_START = 200  # where :full also runs PPO with a KL term, as a control


def seeded(config: ConfigDict, seed: int) -> ConfigDict:
  """The same stage under another seed."""
  config.seed = seed
  return config


def analysis(config: ConfigDict, before: str, after: str) -> ConfigDict:
  """An analysis between two checkpoints of this study."""
  config.checkpoints = dict(before=before, after=after)
  return config


def mixed_rules(config: ConfigDict) -> ConfigDict:
  """SFT on both face rules in equal parts: what rule diversity protects."""
  rows, length = config.experience.rows, config.experience.length
  config.experience = dict(
      name='mixture', rows=rows, length=length, skills=dict(
          id=pretrain.game(pretrain.ID, False, 0.5),
          ood=pretrain.game(pretrain.OOD, True, 0.5)))
  config.env = ConfigDict()
  config.evals = pretrain.panel()
  return config


def near_the_start(config: ConfigDict) -> ConfigDict:
  """PPO held near the checkpoint it starts from."""
  config.objective.kl_coef = 0.05
  return config


def stages_of(seed: int, at: str, variant: str, starts) -> dict:
  """SFT and all that follows from it, under one seed."""
  here = f'{at}sft'
  base = sft.get_config(variant)
  end = base.num_steps
  stages = {here: study.stage('sft', seeded(base, seed), seed=seed)}
  for start in starts:
    config = seeded(rl.get_config(variant), seed)
    config.init = f'{here}@{start}'
    stages[f'{at}rl_{start:04d}'] = study.stage(
        'rl', config, seed=seed, from_step=start)
  stages[f'{at}rotation'] = study.stage('rotation', analysis(
      rotation.get_config(), f'{here}@0', f'{here}@{end}'), seed=seed)
  stages[f'{at}restoration'] = study.stage('restoration', analysis(
      restore.get_config(variant), f'{here}@0', f'{here}@{end}'), seed=seed)
  stages[f'{at}restoration_peak'] = study.stage('restoration_peak', analysis(
      restore.get_config(','.join({'peak', variant} - {''})),
      f'{here}@best_ood', f'{here}@{end}'), seed=seed)
  return stages


def get_config(variant: str = '') -> ConfigDict:
  words = door.variants(variant, ('small', 'full', 'smoke'))
  full = 'full' in words
  few = ','.join(words - {'full'} | {'peak'})
  starts = FULL_STARTS if full else STARTS
  if 'smoke' in words:
    starts = (2, 6)
  stages = {}
  for seed in range(3) if full else (0,):
    at = f'seed{seed}/' if full else ''
    stages |= stages_of(seed, at, variant, starts)
    if full:
      stages[f'{at}sft_mixed'] = study.stage('sft_mixed', mixed_rules(
          seeded(sft.get_config(variant), seed)), seed=seed)
      end = sft.FULL_STEPS[-1]
      held = near_the_start(seeded(rl.get_config(variant), seed))
      held.init = f'{at}sft@{KL_START}'
      stages[f'{at}rl_kl'] = study.stage(
          'rl_kl', held, seed=seed, from_step=KL_START)
      rl_end = f'{at}rl_{end:04d}@{rl.get_config(variant).num_steps}'
      stages[f'{at}rotation_rl'] = study.stage('rotation_rl', analysis(
          rotation.get_config(), f'{at}sft@{end}', rl_end), seed=seed)
      stages[f'{at}impose_sft_on_rl'] = study.stage(
          'impose_sft_on_rl', analysis(
              restore.get_config(few), f'{at}sft@{end}', rl_end),
          seed=seed)
  return study.of(f'GeneralPoints, {"full" if full else "demo"}', stages)
