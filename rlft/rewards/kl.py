"""KL in the reward: each token pays for leaving the reference policy.

reward_t - coef * k(log_probs_t, ref_log_probs_t) (arXiv 1909.08593, eq. 2;
arXiv 2203.02155, eq. 2). The estimate enters as a number, through the
advantages; a KL term in the loss is differentiated instead and belongs to the
objective. What a nat costs may follow the KL that is found: `adapted` is one
step of a controller, whose state is the coefficient.
"""
from jaxtyping import Array, Bool, Float

from rlft.ops import kl, masked
from rlft.types import Scalar


def penalise(
    rewards: Float[Array, 'B T'], log_probs: Float[Array, 'B T'],
    ref_log_probs: Float[Array, 'B T'], mask: Bool[Array, 'B T'], *,
    coef: Scalar, estimator: str = 'k1'
) -> Float[Array, 'B T']:
  """Rewards less `coef` per nat of KL(policy || reference), on the mask."""
  cost = kl.estimator(estimator)(log_probs, ref_log_probs)
  return rewards - coef * masked.keep(cost, mask)


def adapted(
    coef: float, measured: float, *, target: float, horizon: int, rows: int
) -> float:
  """The next coefficient (arXiv 1909.08593, section 2.2).

  coef * (1 + e * rows / horizon), e = measured / target - 1 within +-0.2.
  `measured` and `target` are the KL of a whole row, in nats; after
  `horizon` rows that are far beyond the target it costs 1.2 times as much.
  """
  error = min(max(measured / target - 1, -0.2), 0.2)
  return coef * (1 + error * rows / horizon)
