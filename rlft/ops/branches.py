"""A prompt and its completions in one row, in which the prompt is there once.

What a group's rows share is computed once, forward and backward: a row of
tokens is `P` columns of prompt and then `G` branches of `C` columns, and no
branch sees another (prefix grouping, arXiv 2506.05433). What is computed of a
branch is what would be of the same completion in a row of its own, to rounding.
"""
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from rlft.ops import attention


class Branches(NamedTuple):
  """Where each token stands and what it may attend to; N = P + G * C."""
  positions: Int[Array, 'U N']
  prompt: Bool[Array, 'U P P']
  rest: Bool[Array, 'B C S']  # B = U * G rows, S = P + C columns

  def mix(
      self, query: Float[Array, 'U N Q E'], key: Float[Array, 'U H E N'],
      value: Float[Array, 'U H N E'],
  ) -> Float[Array, 'U N Q E']:
    """Attention of prompts to themselves, of branches to both."""
    (u, p, _), (b, c, _) = self.prompt.shape, self.rest.shape
    first = attention.attend(
        query[:, :p], key[..., :p], value[:, :, :p], self.prompt)

    def whole(x, axis):  # prompt and branch of every row
      given, own = jnp.split(x, [p], axis)
      own = jnp.moveaxis(
          own.reshape(*x.shape[:axis], -1, c, *x.shape[axis + 1:]), axis, 1)
      return jnp.concatenate([
          jnp.repeat(given, b // u, 0), own.reshape(b, *own.shape[2:])], axis)

    rest = attention.attend(
        query[:, p:].reshape(b, c, *query.shape[2:]), whole(key, 3),
        whole(value, 2), self.rest)
    return jnp.concatenate(
        [first, rest.reshape(u, -1, *rest.shape[2:])], axis=1)


def states(
    model: Any, variables: PyTree, tokens: Int[Array, 'B T'], *, prompt: int,
    group: int,
) -> Float[Array, 'B K D']:
  """Hidden states of rows, all or from the last column of the prompt on."""
  if not prompt:
    return model.apply(variables, tokens)[0]
  hidden, _ = model.apply(
      variables, folded(tokens, prompt, group), layout=lay_out(
          tokens, prompt, group, model.pad_id, model.bos_id))
  return unfolded(hidden, prompt, group)


def folded(tokens: Int[Array, 'B T'], prompt: int, group: int
           ) -> Int[Array, 'U N']:
  """Rows of groups, one after the other, as one row for each group."""
  first = tokens[::group, :prompt]
  return jnp.concatenate(
      [first, tokens[:, prompt:].reshape(len(first), -1)], axis=1)


def lay_out(
    tokens: Int[Array, 'B T'], prompt: int, group: int, pad_id: int,
    bos_id: int | None,
) -> Branches:
  """Of `folded` rows, positions and masks as they are in the rows themselves.

  Documents go on from a prompt into each of its branches.
  """
  first, rest = tokens[::group, :prompt], tokens[:, prompt:]
  start = jnp.zeros((), jnp.int32)
  given, documents = attention.extend(
      jnp.full(first.shape, -1, jnp.int32), start, first, pad_id, bos_id)
  documents = jnp.pad(jnp.repeat(documents, group, 0),
                      ((0, 0), (0, rest.shape[1])), constant_values=-1)
  own, _ = attention.extend(documents, start + prompt, rest, pad_id, bos_id)
  return Branches(
      jnp.concatenate(
          [given.positions, own.positions.reshape(len(first), -1)], axis=1),
      given.attend, own.attend)


def unfolded(hidden: Float[Array, 'U N D'], prompt: int, group: int
             ) -> Float[Array, 'B K D']:
  """States of the rows' last K = 1 + C columns: a prompt's last, a branch's."""
  given, rest = jnp.split(hidden, [prompt], axis=1)
  last = jnp.repeat(given[:, -1:], group, axis=0)
  return jnp.concatenate(
      [last, rest.reshape(len(last), -1, hidden.shape[-1])], axis=1)


def split(rows: int, parts: int, group: int) -> None:
  """ValueError unless so many rows are whole groups in each of the parts."""
  if group > 1 and rows % (parts * group):
    raise ValueError(
        f'{rows} rows in {parts} parts are no whole groups of {group}, whose '
        'prompt is computed once: take fewer minibatches or microbatches, or '
        'experience.prompt_length=0')
