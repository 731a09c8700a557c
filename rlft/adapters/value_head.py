"""A critic: a model of its own beside the policy, with a value head.

Any model whose `__call__` gives hidden states will do; its vocabulary head, if
it has one of its own, is left out.
"""
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from rlft.ops import branches


@jax.jit
def make(policy: PyTree) -> PyTree:
  """A critic that starts as the policy, with a value head of zeros."""
  width = policy['final_norm']['scale'].shape[0]
  body = {k: v for k, v in policy.items() if k != 'head'}
  return {
      # the head is kept out of the gradient's way, not out of the module's
      'model': jax.tree.map(jnp.copy, body),
      'value_head': {
          'kernel': jnp.zeros((width, 1)), 'bias': jnp.zeros((1,))},
  }


def values(
    model: Any, critic: PyTree, tokens: Int[Array, 'B T'], *,
    prompt: int = 0, group: int = 1,
) -> Float[Array, 'B T']:
  """V(prefix before each token), in float32; 0 at t = 0.

  And in the first `prompt` columns, if they are shared (`policy.forward`).
  """
  hidden = branches.states(
      *model.unrolled({'params': critic['model']}), tokens, prompt=prompt,
      group=group)
  wide = hidden.astype(jnp.float32)
  v = wide @ critic['value_head']['kernel'] + critic['value_head']['bias'][0]
  return jnp.pad(v[:, :-1, 0], ((0, 0), (max(prompt, 1), 0)))
