"""Credit assignment: from rewards and values to advantages and returns."""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlft.ops import masked


def gae(
    rewards: Float[Array, 'B T'], values: Float[Array, 'B T'],
    mask: Bool[Array, 'B T'], *, discount: float, lam: float
) -> tuple[Float[Array, 'B T'], Float[Array, 'B T']]:
  """Generalised advantage estimation (arXiv 1506.02438, eq. 11 and 16).

  Over the masked-True tokens 1..n of a row, in order:

    delta_i = reward_i + discount * V_(i+1) - V_i,          V_(n+1) = 0
    advantage_i = delta_i + discount * lam * advantage_(i+1)
    return_i = advantage_i + V_i

  `values[:, t]` is V(prefix before token t), the state in which token t is
  chosen; `rewards[:, t]` is paid for choosing it. Tokens off the mask (the
  prompt, the environment's replies between two turns, padding) are skipped as
  if they were not in the row: they neither discount nor decay, and no token
  bootstraps from their value. So the last token of a turn bootstraps from the
  first token of the next one, and a reward of a later turn reaches an earlier.

  A reward must stand on a token of the mask: off the mask it is not seen.
  The end of a row is terminal, also for a completion cut off at its limit.

  Returns (advantages, returns), both 0 off the mask.
  """
  def step(later, now):
    next_value, next_advantage = later
    reward, value, counts = now
    delta = reward + discount * next_value - value
    advantage = delta + discount * lam * next_advantage
    carry = (jnp.where(counts, value, next_value),
             jnp.where(counts, advantage, next_advantage))
    return carry, advantage

  columns = (rewards.T, values.T, mask.T)
  end = jnp.zeros(rewards.shape[0], jnp.result_type(rewards, values))
  _, advantages = jax.lax.scan(step, (end, end), columns, reverse=True)
  advantages = masked.keep(advantages.T, mask)
  return advantages, masked.keep(advantages + values, mask)


def gae_of_stream(
    rewards: Float[Array, 'B T'], values: Float[Array, 'B T'],
    mask: Bool[Array, 'B T'], ends: Bool[Array, 'B T'], *, discount: float,
    lam: float
) -> Float[Array, 'B T']:
  """Advantages of `gae` when the rows, in order, are one trajectory.

  It is cut only after a position where `ends` is true: everywhere else the last
  of a row bootstraps from the first of the next row that has any, and takes
  over its advantage, as

    delta_i = reward_i + discount * more_i * V_(i+1) - V_i,   more = not ends
    advantage_i = delta_i + discount * lam * more_i * advantage_(i+1)

  The end of the last row is terminal. 0 off the mask.
  """
  rewards, values = masked.keep(rewards, mask), masked.keep(values, mask)
  more = jnp.where(ends, 0., 1.)
  # What i hands on to i - 1, discount * (V + lam * advantage), is linear in
  # what i + 1 handed on to it: first those maps are composed along every row,
  # then rows hand on to rows.
  slopes = jnp.where(mask, discount * lam * more, 1.)
  offsets = discount * (values + lam * (rewards - values))

  def compose(later, now):
    offset, slope = now
    return (offset + slope * later[0], slope * later[1]), later

  same = jnp.zeros_like(values[:, 0]), jnp.ones_like(values[:, 0])
  rows, after = jax.lax.scan(
      compose, same, (offsets.T, slopes.T), reverse=True)
  _, begun = jax.lax.scan(
      lambda handed, row: (row[0] + row[1] * handed, handed),
      jnp.zeros((), values.dtype), rows, reverse=True)
  handed = after[0].T + after[1].T * begun[:, None]
  return masked.keep(rewards + more * handed - values, mask)
