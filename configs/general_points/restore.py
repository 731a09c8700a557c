"""What a weight edit restores of what SFT broke (arXiv 2508.16546, section 6).

rlft run --config=configs/general_points/restore.py --run_dir=runs/restore

Every edit moves the SFT end towards the base. Interpolation, noise of the same
norm and removal of the update's leading directions are controls: an edit that
does no better than they do at equal ID has restored nothing of its own. Two
edits have controls that go exactly as far as they do (`match`).
"""
from ml_collections import ConfigDict

from configs.general_points import pretrain, sft
from rlft import config as door

QUARTERS = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
ATTENTION = ('query', 'key', 'value', 'out')
MLP = ('gate', 'up', 'down')

FIRST = dict(kind='revert', layers=QUARTERS[0])
MATCHED = tuple(
    dict(kind=kind, match=label) for kind in ('interpolate', 'noise')
    for label in ('vectors top=0.2', 'revert layers=0:0.25'))

SWEEP = (
    dict(kind='none'),
    dict(kind='values', top=0.2),
    dict(kind='values', top=1.0),
    *(dict(kind='vectors', top=top) for top in (0.1, 0.2, 0.5, 1.0)),
    dict(kind='triplets', top=0.2),
    *(dict(kind='revert', layers=quarter) for quarter in QUARTERS),
    dict(kind='revert', modules=ATTENTION),
    dict(kind='revert', modules=MLP),
    *(dict(kind='interpolate', amount=a)
      for a in (0.1, 0.25, 0.35, 0.45, 0.6, 0.75)),
    dict(kind='low_rank', top=0.2),
    *MATCHED,
)
PEAK_SWEEP = (  # towards the checkpoint where OOD success was highest
    dict(kind='none'),
    dict(kind='values', top=1.0),
    dict(kind='vectors', top=0.2),
    FIRST,
    *(dict(kind='interpolate', amount=a) for a in (0.25, 0.5, 0.75, 1.0)),
)
FULL_SWEEP = (
    *SWEEP,
    *(dict(kind='values', top=top) for top in (0.05, 0.1, 0.5)),
    *(dict(kind='vectors', top=top) for top in (0.05, 0.35, 0.75)),
    *(dict(kind='vectors', top=0.2, layers=q) for q in QUARTERS[:1]),
    *(dict(kind='triplets', top=top) for top in (0.1, 0.5)),
    *(dict(kind='interpolate', amount=a)
      for a in (0.05, 0.15, 0.4, 0.5, 0.9)),
    *(dict(kind='low_rank', top=top) for top in (0.05, 0.1, 0.5)),
    *(dict(kind='noise', amount=a) for a in (0.1, 0.25, 0.5)),
)


def get_config(variant: str = '') -> ConfigDict:
  words = door.variants(variant, ('small', 'full', 'smoke', 'peak'))
  config = sft.get_config(','.join(words - {'peak'}))
  n = 64 if 'smoke' in words else 1024
  sweep = PEAK_SWEEP if 'peak' in words else SWEEP
  if 'full' in words:
    sweep = FULL_SWEEP
  if 'smoke' in words:
    sweep = (dict(kind='none'), dict(kind='vectors', top=0.2),
             dict(kind='values', top=1.0),
             dict(kind='revert', layers=QUARTERS[0]),
             dict(kind='interpolate', amount=0.25),
             dict(kind='noise', amount=0.25))
  return ConfigDict(dict(
      analysis=dict(name='restoration', sweep=sweep, seed=0),
      checkpoints=dict(before='runs/sft@0', after='runs/sft@300'),
      tokenizer=config.tokenizer, chat=config.chat, model=config.model,
      init='', base='',
      evals=pretrain.panel(n, **(dict(rows=64) if n == 64 else {}))))
