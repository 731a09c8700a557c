"""SFT on the ID rule alone (arXiv 2508.16546, section 3), at nano size.

rlft run --config=configs/general_points/sft.py --run_dir=runs/sft

Oracle demonstrations of the training multisets, J = Q = K = 10. The paper's
batch of 64; its learning rate (1e-6 for 7-11 B parameters) is scaled to the
model: constant 3e-4. Checkpoints are log-spaced; each is evaluated held out,
under the rule that was trained and under the other one.
"""
from ml_collections import ConfigDict

from configs.general_points import pretrain
from rlft import config as door

BASE = {'nano': 'asset:points24_nano', 'small': 'runs/pretrain_small@last'}
STEPS = (0, 10, 20, 40, 80, 120, 200, 300)
FULL_STEPS = (*STEPS, 450, 600)


def full_panel(n=1024) -> dict:
  """2 x 2 of rule and sampler, sampled, several tries, seen hands."""
  id_env = pretrain.env(pretrain.ID)
  ood_env = pretrain.env(pretrain.OOD, ensure_face=True)
  few = (0, 120, 600)  # what several answers cost is spent at these steps
  panel = pretrain.panel(n, nll=True, kl=256, kl_fixed=256)
  panel['id_seen'] = dict(env=pretrain.env(pretrain.ID, split='train'), n=n)
  panel['id_rule_ood_sampler'] = dict(
      env=pretrain.env(pretrain.ID, ensure_face=True), n=n)
  panel['ood_rule_id_sampler'] = dict(env=pretrain.env(pretrain.OOD), n=n)
  for name, env in (('id', id_env), ('ood', ood_env)):
    panel[f'{name}_sampled'] = dict(env=env, n=n, temperature=1.0)
    panel[f'{name}_tries5'] = dict(
        env=env, n=n, temperature=1.0, tries=5, steps=few)
    panel[f'{name}_independent5'] = dict(
        env=env, n=n, temperature=1.0, independent=5, steps=few)
  return panel


def get_config(variant: str = '') -> ConfigDict:
  words = door.variants(variant, ('small', 'full', 'smoke'))
  config = door.skeleton()
  size = 'small' if 'small' in words else 'nano'
  config.model.preset = size
  config.init = BASE[size]
  config.objective = dict(name='sft')
  config.experience = dict(name='demonstrations', rows=64, length=32)
  config.env = pretrain.env(pretrain.ID, split='train')
  config.optimizer = dict(
      learning_rate=3e-4, schedule='constant', warmup_steps=0,
      weight_decay=0.0)
  steps = FULL_STEPS if 'full' in words else STEPS
  config.evals = full_panel() if 'full' in words else pretrain.panel(
      nll=True, kl=256, kl_fixed=256)
  if 'smoke' in words:
    steps = (0, 2, 6)
    config.evals = pretrain.panel(n=64, rows=64, nll=True, kl=32)
    config.log.every = 2
  config.num_steps = steps[-1]
  config.evaluate.steps = config.checkpoint.steps = steps
  return config
