"""Group sequence policy optimisation (arXiv 2507.18071, eq. 5 to 7).

The advantages are those of `grpo.py`; ratio and clip are of the whole row,

  s = (pi(row) / behaviour(row))^(1 / n) = exp(mean over its n tokens of
      log pi - log behaviour)
  loss = - mean over rows of min(s A, clip(s, 1 - clip_low, 1 + clip_high) A)
         + kl_coef * KL(policy || reference)

s moves far less than the ratio of a token: the clips are those of the paper's
experiments (section 5.1), which have no KL. `ratio_guard` bounds s.
"""
from jaxtyping import Array, Float

from rlft.objectives import grpo
from rlft.ops import actor, masked
from rlft.types import Experience, Metrics, Outputs

advantages = grpo.advantages


def loss(outputs: Outputs, batch: Experience, *, clip_low: float = 3e-4,
         clip_high: float = 4e-4, kl_coef: float = 0.0,
         kl_estimator: str = 'k3', ratio_guard: float | None = 10.0
         ) -> tuple[Float[Array, ''], Metrics]:
  """Policy and KL terms; no gradient enters `batch`."""
  new, old, gains = actor.known(outputs, batch)
  log_ratio = masked.along_rows(masked.row_mean(
      new.log_probs - old.log_probs, old.mask), old.mask)
  return actor.clipped_loss(
      log_ratio, new, old, gains, clip_low=clip_low, clip_high=clip_high,
      ratio_guard=ratio_guard, aggregation='row_mean', kl_coef=kl_coef,
      kl_estimator=kl_estimator)
