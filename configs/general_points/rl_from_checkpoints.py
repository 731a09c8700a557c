"""PPO from every SFT checkpoint (arXiv 2508.16546, figure of RL by start).

python launch/sweep.py --config=configs/general_points/rl_from_checkpoints.py \\
    --run_dir=runs/rl_from | bash

Every start has the same budget, and none is left out after seeing OOD.
"""
from collections.abc import Iterator

from ml_collections import ConfigDict

from configs.general_points import rl, sft


def get_config(variant: str = '') -> ConfigDict:
  return rl.get_config(variant)


def sweep() -> Iterator[dict[str, str]]:
  for step in sft.STEPS:
    yield {'init': f'runs/sft@{step}'}
