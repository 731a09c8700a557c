"""Expert iteration (arXiv 1705.08439; for language models 2403.04642).

Maximum likelihood of the policy's own correct samples: SFT on what it solved,

  loss = - mean of log pi(token) over the tokens of rows with return >= solved

Copies of one completion of a prompt share the weight of one, as the paper's
data have each once. Wrong rows are not in the mean. The paper begins each
iteration from the base model; here the weights go on from rollout to rollout,
and a stage that begins anew is another run.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlft.ops import groups, masked
from rlft.types import Experience, Metrics, Outputs, Rollout


def advantages(rollout: Rollout, *, solved: float = 1.0) -> Experience:
  """1 / copies on the tokens of a correct row, 0 on those of another.

  `solved` is in units of the rollout's rewards, so times
  `experience.reward_scale`.
  """
  mask = rollout.mask
  returns = masked.row_total(rollout.rewards, mask)
  copies = groups.copies(rollout.tokens, mask, rollout.prompt_ids)
  weights = masked.keep(1 / copies.clip(1), returns >= solved)
  return Experience(rollout, masked.along_rows(weights, mask),
                    masked.along_rows(returns, mask))


def loss(outputs: Outputs, batch: Experience
         ) -> tuple[Float[Array, ''], Metrics]:
  """Weighted negative log-likelihood, in nats per token; 0 if none is right."""
  mask = batch.mask
  weights = jax.lax.stop_gradient(masked.keep(batch.advantages, mask))
  log_probs = masked.keep(outputs.log_probs, mask)
  total = masked.total(weights * log_probs, mask)
  weight = masked.total(weights, mask)
  return -total / jnp.where(weight > 0, weight, 1.0), {
      'entropy': masked.mean(outputs.entropy, mask),
      'correct_tokens': masked.count(mask & (weights > 0)),
      'completion_tokens': masked.count(mask),
      'loss_weight': weight}
