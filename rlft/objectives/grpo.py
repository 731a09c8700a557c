"""Group relative policy optimisation (arXiv 2402.03300, eq. 3 and 4).

No critic: a completion is compared with the others of its prompt. With R the
return of a row, and mean and deviation over its group,

  A = (R - mean) / deviation,   on every token of the row
  loss = - min(ratio A, clip(ratio, 1 - clip, 1 + clip) A)
         + kl_coef * KL(policy || reference), ratio of a token: pi / behaviour

first averaged over the tokens of a row, then over rows (`aggregation`). The
paper's KL is k3; see `ops/kl.py`. The deviation divides by n (the paper does
not say). `ratio_guard` bounds the ratio where A < 0, which the paper does not
(dual clip, arXiv 1912.09729); None leaves it open. With `importance_cap` the
surrogate of a token is weighed for what the sampler made of it: see
`ops/surrogate.py:corrected`.
"""
from jaxtyping import Array, Float

from rlft.ops import actor, groups, masked
from rlft.types import Experience, Metrics, Outputs, Rollout


def advantages(rollout: Rollout) -> Experience:
  """Returns standardised in their group; 0 in a group of equal returns."""
  mask = rollout.mask
  returns = masked.row_total(rollout.rewards, mask)
  gains = groups.standardised(
      returns, rollout.prompt_ids, mask.any(axis=1))
  return Experience(rollout, masked.along_rows(gains, mask),
                    masked.along_rows(returns, mask))


def loss(outputs: Outputs, batch: Experience, *, clip: float = 0.2,
         kl_coef: float = 0.04, kl_estimator: str = 'k3',
         ratio_guard: float | None = 10.0, aggregation: str = 'row_mean',
         importance_cap: float | None = None
         ) -> tuple[Float[Array, ''], Metrics]:
  """Policy and KL terms; no gradient enters `batch`."""
  new, old, gains = actor.known(outputs, batch)
  return actor.clipped_loss(
      new.log_probs - old.log_probs, new, old, gains, clip_low=clip,
      clip_high=clip, ratio_guard=ratio_guard, aggregation=aggregation,
      kl_coef=kl_coef, kl_estimator=kl_estimator,
      importance_cap=importance_cap)
