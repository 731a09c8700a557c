"""Supervised fine-tuning: maximum likelihood of the demonstrations.

loss = - mean over completion tokens of log pi(token | tokens before it),
a token mean over the whole batch: a long completion weighs more than a short
one, and every token the same. Nats per token.
"""
from jaxtyping import Array, Float

from rlft.ops import masked
from rlft.types import Batch, Metrics, Outputs


def loss(outputs: Outputs, batch: Batch
         ) -> tuple[Float[Array, ''], Metrics]:
  """Negative log-likelihood; `completion_tokens` = 0 tells an empty mask."""
  nll = -masked.mean(outputs.log_probs, batch.mask)
  return nll, {'nll': nll, 'completion_tokens': masked.count(batch.mask)}
