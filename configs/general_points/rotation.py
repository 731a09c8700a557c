"""How far SFT turned the weight matrices (arXiv 2508.16546, section 5).

rlft run --config=configs/general_points/rotation.py --run_dir=runs/rotation

Principal angles of the leading 20 % of directions and the change of singular
values, each beside its norm-matched null and the floor of rounding to bfloat16.
"""
from ml_collections import ConfigDict


def get_config(variant: str = '') -> ConfigDict:
  del variant
  return ConfigDict(dict(
      analysis=dict(name='rotation', top=0.2, seed=0, floor='bfloat16'),
      checkpoints=dict(before='runs/sft@0', after='runs/sft@300')))
