"""SFT on conversations of your own: JSON Lines or Parquet, packed.

rlft run --config=configs/sft_conversations.py --run_dir=runs/sft \\
    --config.init=hf:models/Qwen2.5-7B-Instruct --config.model.preset= \\
    --config.tokenizer= --config.experience.files='train/*.parquet'
rlft run --config=configs/sft_conversations.py:smoke --run_dir=runs/smoke \\
    --config.experience.files=train.jsonl   # half a minute: can it be read?

Without an `init` it trains a small fresh model with Qwen2's chat template. What
is longer than `length` tokens is left out, and counted as `too_long`. On
several hosts take more `rows`, and as many `slices` as hosts: each then
tokenises no rows but its own.
"""
from ml_collections import ConfigDict

from rlft import config as door


def get_config(variant: str = '') -> ConfigDict:
  words = door.variants(variant, ('smoke',))
  config = door.skeleton()
  config.tokenizer = 'asset:qwen2_chat'
  config.experience = dict(
      name='conversations', files='', rows=16, length=2048, packed=True,
      slices=2)
  config.objective = dict(name='sft')
  config.optimizer = dict(
      learning_rate=1e-5, schedule='cosine', warmup_steps=10,
      weight_decay=0.0)
  config.num_steps = 300
  config.checkpoint.every = 100
  if 'smoke' in words:
    config.model.preset = 'tiny'
    config.experience.update(rows=8, length=256)
    config.num_steps = 4
    config.log.every = 1
  return config
