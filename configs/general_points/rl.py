"""PPO on the ID rule from an SFT checkpoint (arXiv 2508.16546, section 3).

rlft run --config=configs/general_points/rl.py --run_dir=runs/rl \\
    --config.init=runs/sft@300

Token-level PPO with a separate critic; the same hands, rule and verifier as
SFT. The budget (updates, rollouts) is fixed here, before any OOD success is
seen. One answer a hand; `:tries` plays three with the verifier's feedback.
"""
from ml_collections import ConfigDict

from configs.general_points import pretrain, sft
from rlft import config as door


def get_config(variant: str = '') -> ConfigDict:
  words = door.variants(variant, ('small', 'full', 'smoke', 'tries'))
  config = sft.get_config(','.join(words - {'tries'}))
  config.init = 'runs/sft@300'
  config.base = sft.BASE[config.model.preset]
  config.critic = True
  config.objective = dict(
      name='ppo', clip=0.2, value_clip=None, value_coef=0.5, entropy_coef=0.0,
      kl_coef=0.0, kl_estimator='k3')
  config.advantages = dict(
      discount=1.0, lam=0.95, whiten=True, kl_reward_coef=0.0,
      kl_estimator='k1')
  config.experience = dict(
      name='rollouts', prompts=256, group=1, tries=1, temperature=1.0,
      length=36, reward_scale=0.2)
  config.passes = dict(epochs=2, minibatches=4)
  config.optimizer = dict(
      learning_rate=2e-5, critic_learning_rate=2e-4, schedule='constant',
      # the critic starts at zero: it learns the mean return first
      warmup_steps=16, critic_warmup_steps=0, weight_decay=0.0)
  config.evals = pretrain.panel(kl=256, kl_fixed=256)
  steps = (0, 10, 20)
  if 'tries' in words:
    config.experience.tries, config.experience.length = 3, 112
  if 'full' in words:
    steps = (0, 10, 20, 40)
  if 'smoke' in words:
    config.experience.prompts = 16
    config.evals = pretrain.panel(n=64, rows=64)
    steps = (0, 2)
  config.num_steps = steps[-1]
  config.evaluate.steps = config.checkpoint.steps = steps
  config.log.every = 1
  return config
