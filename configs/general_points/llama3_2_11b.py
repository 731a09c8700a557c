"""The main experiment with Llama-3.2-11B-Vision-Instruct (arXiv 2508.16546).

rlft run --config=configs/general_points/llama3_2_11b.py --run_dir=runs/llama
rlft run --config=configs/general_points/llama3_2_11b.py:faithful,smoke \\
    --run_dir=runs/llama_smoke      # minutes on two CPU cores, a random model

The first wants the model's files at models/Llama-3.2-11B-Vision-Instruct; only
the layers that a text passes are trained. Published: OOD 17.5 % at step 140 of
SFT, 6.9 % at 1100, 16.2 % after PPO from there (234 hands, one seed). Variants:
papers.py.
"""
from ml_collections import ConfigDict

from configs.general_points import papers

PAPER = papers.Paper(
    name='Llama-3.2-11B', directory='models/Llama-3.2-11B-Vision-Instruct',
    chat='llama3_chat',
    shape=dict(
        width=32, layers=2, heads=4, kv_heads=2, hidden=64, extra_embeddings=8,
        rope=dict(base=500_000.0, scaling='llama3', factor=8.0,
                  low_frequency=1.0, high_frequency=4.0, context=8192)),
    sft_steps=(0, 10, 20, 30, 40, 50, 90, 140, 200, 300, 400, 500, 600, 700,
               800, 900, 1000, 1100),
    starts=(140, 500, 1100), updates=70, prompts=128, epochs=4,
    sampling=dict(temperature=0.6, name='truncated', top_p=0.9))


def get_config(variant: str = '') -> ConfigDict:
  return papers.study(PAPER, variant)
