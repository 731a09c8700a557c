"""KL in the reward: each token pays for leaving the reference policy.

reward_t - coef * k(log_probs_t, ref_log_probs_t) (arXiv 1909.08593, eq. 2;
arXiv 2203.02155, eq. 2). The estimate enters as a number, through the
advantages; a KL term in the loss is differentiated instead and belongs to the
objective.
"""
from jaxtyping import Array, Bool, Float

from rlft.ops import kl, masked


def penalise(
    rewards: Float[Array, 'B T'], log_probs: Float[Array, 'B T'],
    ref_log_probs: Float[Array, 'B T'], mask: Bool[Array, 'B T'], *,
    coef: float, estimator: str = 'k1'
) -> Float[Array, 'B T']:
  """Rewards less `coef` per nat of KL(policy || reference), on the mask."""
  cost = kl.estimator(estimator)(log_probs, ref_log_probs)
  return rewards - coef * masked.keep(cost, mask)
