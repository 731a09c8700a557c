"""What several tests share: the shipped words and a model of a tiny size."""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlft import config as door
from rlft import tokenizer
from rlft.models import transformer

ROLLOUTS = dict(
    prompts=4, group=2, tries=2, temperature=3.0, length=80, max_new_tokens=6,
    reward_scale=0.2)


@functools.cache
def words() -> tokenizer.Tokenizer:
  return tokenizer.load('asset:points24')


@functools.cache
def model() -> transformer.Model:
  return transformer.make(preset='tiny', vocabulary=words().vocabulary)


@functools.cache
def initialised(seed: int = 0) -> dict:
  """Fresh parameters {'policy': ...}; nobody may donate them."""
  return {'policy': transformer.initialise(model(), jax.random.key(seed))}


def noised(params: dict, scale: float, seed: int = 1) -> dict:
  """A copy with Gaussian noise of this deviation on every parameter."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda x: jnp.asarray(x + scale * rng.normal(size=x.shape), x.dtype),
      params)


def sft_config(num_steps: int = 4):
  """SFT from fresh parameters, saved and evaluated at every other step."""
  config = door.skeleton()
  config.num_steps = num_steps
  config.model.preset = 'tiny'
  config.objective = dict(name='sft')
  config.experience = dict(name='demonstrations', rows=4, length=36)
  config.env = game(split='train')
  config.optimizer = dict(learning_rate=3e-3, warmup_steps=0)
  config.evals = dict(
      id=dict(env=game(split='held_out'), n=6, rows=6, max_new_tokens=6),
      ood=dict(env=game(split='held_out', faces=(11, 12, 13)), n=6, rows=6,
               max_new_tokens=6, keep=2))
  config.evaluate.every = config.checkpoint.every = 2
  config.log.every = 1
  return config


def rl_config(num_steps: int = 4):
  """PPO from fresh parameters, with a critic and two tries."""
  config = sft_config(num_steps)
  config.critic = True
  config.objective = dict(name='ppo', clip=0.2)
  config.advantages = dict(lam=0.95)
  config.experience = dict(name='rollouts', **ROLLOUTS)
  config.passes = dict(epochs=2, minibatches=2)
  config.optimizer = dict(learning_rate=1e-3, critic_learning_rate=5e-3)
  del config.evals['ood']
  return config


def lora_config(num_steps: int = 4):
  """The same, of adapters."""
  config = rl_config(num_steps)
  config.lora.rank = 3
  return config


def game(**rules) -> dict:
  """The card game's section."""
  return dict(
      name='general_points', text='compact', mode='corrected', **rules)
