"""A run of a published size with random weights: to plan, or to time a slice.

rlft plan --config=configs/scale.py:qwen2.5-7b,sft --topology=v5e:16x16

Variants, comma-joined: the name of a size (rlft/presets.py), and

  sft    256 rows of 2,048 tokens
  ppo    256 rollouts of up to 1,024 tokens, with a critic and a reference

All parameters are trained, in float32 with both of Adam's moments; products are
bfloat16. Parameters and moments are cut over 32 devices, or 64 with ppo, of
which four share each layer, and rows over all that do not.
"""
from ml_collections import ConfigDict

from rlft import config as door
from rlft import presets

KINDS = ('sft', 'ppo')


def get_config(variant: str = '') -> ConfigDict:
  words = door.variants(
      variant or 'qwen2.5-7b,sft', (*presets.SHAPES, *KINDS))
  sizes, kinds = words & set(presets.SHAPES), words & set(KINDS)
  if len(sizes) != 1 or len(kinds) != 1:
    raise ValueError(f'{variant!r}: write one size and one of '
                     f'{", ".join(KINDS)}, such as qwen2.5-7b,sft')
  config = door.skeleton()
  config.model = dict(
      name='transformer', preset=sizes.pop(), dtype='bfloat16',
      remat='block')
  config.tokenizer = 'asset:qwen2_chat'
  # Over more than 32 parts TPUs sum gradients whole and cut them afterwards; a
  # sampler holds the weights whole but for `tensor`.
  config.mesh = dict(data=-1, fsdp=16, tensor=4) if 'ppo' in kinds else dict(
      data=-1, fsdp=32, tensor=1)
  config.env = dict(name='general_points', text='paper', mode='corrected',
                    split='train')
  config.optimizer = dict(learning_rate=1e-6)
  config.num_steps = 100
  if kinds == {'sft'}:
    config.objective = dict(name='sft')
    config.experience = dict(name='demonstrations', rows=256, length=2048)
  else:
    config.critic = True
    config.objective = dict(name='ppo', clip=0.2)
    config.advantages = dict(lam=0.95)
    config.experience = dict(
        name='rollouts', prompts=256, group=1, tries=1, temperature=1.0,
        length=1024, max_new_tokens=512)
    config.passes = dict(epochs=1, minibatches=1)
  return config
