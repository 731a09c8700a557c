"""What both sides of a comparison are set to; imports nothing.

A peer's process reads this file, too. Log-probabilities are drawn on a grid of
1 / 64 (`batches.py`), on which no logarithm of a clip or a guard lies, nor
within 1e-5 of a mean of up to 12 numbers of it: rounding decides no clip.
"""
DISCOUNT, LAM = 0.95, 0.9
KL_REWARD_COEF = 0.05
# of a coefficient that follows the KL
ADAPTED = dict(coef=0.2, target=0.3, horizon=400)

CLIP = dict(clip=0.2, ratio_guard=10.0)
PPO = dict(clip=0.2, value_clip=0.3, value_coef=0.5, entropy_coef=0.01,
           kl_coef=0.05, kl_estimator='k2', ratio_guard=3.0)
PPO_PLAIN = dict(  # TRL's, which has no guard
    clip=0.2, value_clip=0.3, value_coef=0.5, ratio_guard=None)
GRPO = CLIP | dict(kl_coef=0.04, kl_estimator='k3')
DAPO = dict(clip_low=0.2, clip_high=0.28, ratio_guard=10.0)
GSPO_GUARD = 22026.465794806718  # e^10, where verl holds the ratio of a row
GSPO = dict(clip_low=3e-4, clip_high=4e-4, ratio_guard=GSPO_GUARD)
GSPO_WIDE = dict(clip_low=0.04, clip_high=0.08, ratio_guard=GSPO_GUARD)
RLOO = dict(clip=0.2, ratio_guard=None)  # TRL's is clipped, and unguarded
GROUP = 3  # rows of a prompt, in TRL

ESTIMATORS = ('k1', 'k2', 'k3')
AGGREGATIONS = ('token_mean', 'row_mean', 'constant_length')
