"""What the verifier's messages are worth: five tries against five samples.

rlft eval asset:points24_nano --config=configs/general_points/tries.py \\
    --out=tries.json

Success within five tries with feedback in between, over that of five
independent samples of the same policy at the same temperature on the same
held-out hands (`over_independent`), beside the same difference between two sets
of such samples (`over_independent_null`). A `blind` verifier says that an
answer is wrong and not what is wrong with it: what is then left is what seeing
its own failures does to a policy. As a run it is that of sft.py.
"""
from ml_collections import ConfigDict

from configs.general_points import pretrain, sft
from rlft import config as door


def get_config(variant: str = '') -> ConfigDict:
  words = door.variants(variant, ('small', 'full', 'smoke'))
  config = sft.get_config(variant)
  config.evals = ConfigDict()
  for end, hints in (('', True), ('_blind', False)):
    for name, env in (
        ('id', pretrain.env(pretrain.ID, hints=hints)),
        ('ood', pretrain.env(pretrain.OOD, ensure_face=True, hints=hints))):
      config.evals[f'{name}{end}'] = ConfigDict(dict(
          env=env, n=64 if 'smoke' in words else 512, temperature=1.0,
          tries=5, against_independent=True))
  return config
