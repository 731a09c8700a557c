"""The numbers of a model that are compared, and how."""
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Asked(NamedTuple):
  """What a model is asked."""
  tokens: Int[np.ndarray, 'B T']
  mask: Bool[np.ndarray, 'B T']  # what the loss counts
  prompts: Int[np.ndarray, 'B P']  # left-padded
  pad: int
  new: int  # tokens to write after each prompt


class Numbers(NamedTuple):
  """What it answers, float32."""
  logits: Float[np.ndarray, 'B T V']
  hidden: Float[np.ndarray, 'B T D']  # what the head is given
  loss: float
  gradients: dict[str, np.ndarray]  # by tensor of the checkpoint
  written: Int[np.ndarray, 'B N']  # greedily
  margins: Float[np.ndarray, 'B N'] | None  # of each choice, of logits' size


CLEAR = 1e-3  # least margin of a choice that rounding cannot change


def errors(got: Numbers, want: Numbers, asked: Asked) -> dict[str, float]:
  """Relative error of each number: largest gap over the largest one wanted.

  Logits and hidden states by position, gradients by tensor; `written` is the
  share of tokens that differ, up to a choice that was not clear.
  """
  real = asked.tokens != asked.pad
  gap = lambda a, b: float(np.max(
      np.abs(a - b).max(-1) / np.abs(b).max(-1), initial=0))
  zero = {k for k, v in want.gradients.items() if not v.any()}
  expected = set(want.gradients) - zero
  strangers = (set(got.gradients) ^ expected) - zero
  if strangers:
    raise ValueError(f'gradients of one side only: {sorted(strangers)}')
  found = dict(
      logits=gap(got.logits[real], want.logits[real]),
      hidden=gap(got.hidden[real], want.hidden[real]),
      loss=abs(got.loss - want.loss) / abs(want.loss),
      written=float(np.mean(differ(
          got.written, want.written, want.margins))))
  return found | {
      f'gradient of {name}': gap(
          got.gradients[name].reshape(1, -1),
          want.gradients[name].reshape(1, -1))
      for name in sorted(expected)}


def differ(
    got: Int[np.ndarray, 'B N'], want: Int[np.ndarray, 'B N'],
    margins: Float[np.ndarray, 'B N'],
) -> Bool[np.ndarray, 'B N']:
  """Where other tokens are written, up to a choice that was not clear."""
  doubtful = np.logical_or.accumulate(margins < CLEAR, axis=1)
  return (got != want) & ~doubtful
