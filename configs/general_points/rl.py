"""RL on the ID rule from an SFT checkpoint (arXiv 2508.16546, section 3).

rlft run --config=configs/general_points/rl.py --run_dir=runs/rl \\
    --config.init=runs/sft@300
rlft run --config=configs/general_points/rl.py:grpo --run_dir=runs/grpo \\
    --config.init=runs/sft@300

Token-level PPO with a separate critic; the same hands, rule and verifier as
SFT. The budget (updates, rollouts) is fixed here, before any OOD success is
seen. One answer a hand; `:tries` plays three with the verifier's feedback.
`:replay` learns from as many rows, half of them of the two updates before.

Another objective is a variant, one of METHODS, with what its paper sets; all
have 256 rollouts an update, and PPO's learning rate, which was tuned for none
of them (learning.py tunes).
"""
from typing import Any

from ml_collections import ConfigDict

from configs.general_points import pretrain, sft
from rlft import config as door

GROUPS = dict(prompts=32, group=8)  # the papers' groups: 4 to 96
SINGLE = dict(prompts=256, group=1)
ONE_STEP = dict(epochs=1, minibatches=1)
# what a correct first try is paid, 5 * reward_scale; with `:tries` a row that
# is solved later has less, and is not learned where `solved` asks for this
PAID = 1.0

METHODS: dict[str, dict[str, Any]] = {
    # arXiv 2402.03300, section 4.2: KL 0.04, one update of each rollout
    'grpo': dict(
        objective=dict(clip=0.2, kl_coef=0.04, kl_estimator='k3',
                       aggregation='row_mean'),
        advantages=dict(), experience=GROUPS, passes=ONE_STEP),
    # arXiv 2503.20783, section 3.2: neither deviation nor length nor KL
    'dr_grpo': dict(
        objective=dict(clip=0.2, kl_coef=0.0, kl_estimator='k3'),
        advantages=dict(), experience=GROUPS, passes=ONE_STEP),
    # arXiv 2402.14740, section 2.3: no clip, the KL in the return; its paper
    # has rewards of a model and a KL of its own scale, a verifier needs none
    'rloo': dict(
        objective=dict(clip=None),
        advantages=dict(kl_reward_coef=0.0, kl_estimator='k1'),
        experience=GROUPS, passes=ONE_STEP),
    # arXiv 2501.03262: one completion of a prompt, k1 in the reward
    'reinforce_pp': dict(
        objective=dict(clip=0.2, aggregation='row_mean'),
        advantages=dict(discount=1.0, whiten=True, kl_reward_coef=0.01,
                        kl_estimator='k1'),
        experience=SINGLE, passes=dict(epochs=1, minibatches=4)),
    # arXiv 2507.18071, section 5.1: both clips, four minibatches of a rollout
    'gspo': dict(
        objective=dict(clip_low=3e-4, clip_high=4e-4, kl_coef=0.0,
                       kl_estimator='k3'),
        advantages=dict(), experience=GROUPS,
        passes=dict(epochs=1, minibatches=4)),
    # arXiv 2503.14476, section 4.1: both clips, groups of 16, sampled until
    # their returns are unequal, 16 minibatches of a rollout; what is punished
    # is the last fifth of the longest answer
    'dapo': dict(
        objective=dict(clip_low=0.2, clip_high=0.28, kl_coef=0.0,
                       kl_estimator='k3', aggregation='token_mean'),
        advantages=dict(overlong_limit=20, overlong_margin=4,
                        overlong_penalty=1.0),
        experience=dict(
            name='dynamic', prompts=16, group=16, max_batches=10),
        passes=dict(epochs=1, minibatches=16)),
    # arXiv 2509.04259, section 4: what is right is learned, once
    'one_zero_reinforce': dict(
        objective=dict(), advantages=dict(solved=PAID), experience=SINGLE,
        passes=ONE_STEP),
    # arXiv 2403.04642: copies of a prompt's correct sample count once
    'expert_iteration': dict(
        objective=dict(), advantages=dict(solved=PAID), experience=GROUPS,
        passes=dict(epochs=2, minibatches=4)),
}


def without_critic(config: ConfigDict, name: str) -> None:
  """Makes a PPO config one of METHODS."""
  method = METHODS[name]
  config.critic = False
  config.objective = dict(name=name, **method['objective'])
  config.advantages = method['advantages']
  config.experience.update(method['experience'])
  config.passes = method['passes']
  # as many rollouts as PPO warms up in
  steps = config.passes.epochs * config.passes.minibatches
  config.optimizer = dict(
      learning_rate=config.optimizer.learning_rate, schedule='constant',
      warmup_steps=2 * steps, weight_decay=0.0)


def get_config(variant: str = '') -> ConfigDict:
  words = door.variants(
      variant, ('small', 'full', 'smoke', 'tries', 'replay', *METHODS))
  methods = words & set(METHODS)
  if len(methods) > 1:
    raise ValueError(f'{", ".join(sorted(methods))}: write one objective')
  if {'dapo', 'replay'} <= words:
    raise ValueError('dapo has a source of its own: leave replay out')
  config = sft.get_config(','.join(words - {'tries', 'replay'} - methods))
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
      # answers are of about one length: fewer slots than rows gain nothing
      length=36, reward_scale=0.2, slots=0)
  config.passes = dict(epochs=2, minibatches=4)
  config.optimizer = dict(
      learning_rate=2e-5, critic_learning_rate=2e-4, schedule='constant',
      # the critic starts at zero: it learns the mean return first
      warmup_steps=16, critic_warmup_steps=0, weight_decay=0.0)
  for name in methods:
    without_critic(config, name)
  config.evals = pretrain.panel(kl=256, kl_fixed=256)
  steps = (0, 10, 20)
  if 'tries' in words:
    config.experience.tries, config.experience.length = 3, 112
    if 'dapo' in methods:  # a row has the tokens of all tries
      config.advantages.update(overlong_limit=60, overlong_margin=12)
  if 'replay' in words:
    config.experience.update(name='replay', fresh=0.5, max_staleness=2)
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
