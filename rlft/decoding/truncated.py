"""Top-k and top-p (nucleus) truncation, arXiv 1805.04833 and 1904.09751.

Top-k first, then top-p on what is left, renormalised: the order of
`transformers`.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def rule(
    logits: Float[Array, 'B V'], /, *, top_k: int = 0, top_p: float = 1.0,
) -> Float[Array, 'B V']:
  """Keeps the `top_k` likeliest tokens, of these the likeliest `top_p`.

  Top-p keeps the smallest set whose probability reaches `top_p`, so the token
  that crosses it is kept, and one always is. Of equal logits the lower token
  comes first: never more than `top_k` are kept. 0 and 1 keep all. Raises
  ValueError for a negative `top_k` or a `top_p` outside (0, 1].
  """
  if top_k < 0:
    raise ValueError(f'top_k is {top_k}: give a whole number from 0 (all)')
  if not 0 < top_p <= 1:
    raise ValueError(f'top_p is {top_p}: give a number above 0 and up to 1')
  size = logits.shape[-1]
  if top_k == 0 and top_p == 1:
    return logits
  # The whole vocabulary is sorted only when top-k does not bound the set.
  logits = jnp.where(logits == 0, 0.0, logits)  # -0.0 would sort below 0.0
  ranked, tokens = jax.lax.top_k(logits, min(top_k or size, size))
  last = jnp.full(logits.shape[:1], ranked.shape[1] - 1)
  if top_p < 1:
    mass = jnp.cumsum(jax.nn.softmax(ranked, axis=-1), axis=-1)
    before = jnp.pad(mass[:, :-1], ((0, 0), (1, 0)))
    last = jnp.sum(before < top_p, axis=-1) - 1
  # All that ranks up to the last kept: no scatter over the vocabulary.
  take = lambda x: jnp.take_along_axis(x, last[:, None], axis=-1)
  least, at = take(ranked), take(tokens)
  tie = (logits == least) & (jnp.arange(size)[None] <= at)
  return jnp.where((logits > least) | tie, logits, -jnp.inf)
