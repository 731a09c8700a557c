"""The main experiment with Qwen2.5-7B-Instruct (arXiv 2508.16546).

rlft run --config=configs/general_points/qwen2_5_7b.py --run_dir=runs/qwen
rlft run --config=configs/general_points/qwen2_5_7b.py:faithful,smoke \\
    --run_dir=runs/qwen_smoke       # minutes on two CPU cores, a random model

The first wants the model's files at models/Qwen2.5-7B-Instruct. Published: OOD
19.7 % at step 120 of SFT, 17.1 % at 800, 19.7 % after PPO from there (234
hands, one seed). Variants: papers.py.
"""
from ml_collections import ConfigDict

from configs.general_points import papers

PAPER = papers.Paper(
    name='Qwen2.5-7B', directory='models/Qwen2.5-7B-Instruct',
    chat='qwen2_chat',
    shape=dict(
        width=32, layers=2, heads=4, kv_heads=2, hidden=64, qkv_bias=True,
        epsilon=1e-6, rope=dict(base=1_000_000.0)),
    sft_steps=(0, 10, 20, 30, 40, 50, 90, 120, 140, 200, 300, 400, 500, 600,
               700, 800),
    starts=(120, 400, 800), updates=30, prompts=32,
    # gradients of all four epochs make one optimizer step there
    epochs=1,
    sampling=dict(temperature=0.7, name='truncated', top_p=0.8, top_k=20))


def get_config(variant: str = '') -> ConfigDict:
  return papers.study(PAPER, variant)
