"""The vocabulary: what flows along the arrow, as NamedTuples of arrays.

Axis letters, declared once for the whole library:

  B  rows of a batch          T  tokens (positions) of a row
  V  vocabulary               D  width of the model
  L  layers (stacked)         M x N  a weight matrix, input x output
  K  singular directions      R  rotated size (square)

Every per-token array has shape (B, T) and is aligned with the token that it
scores: `log_probs[:, t]` is the log-probability of `tokens[:, t]` given the
tokens before it, and `log_probs[:, 0] = 0`. There is no T - 1 anywhere.
Masks are boolean and mean "counts".
"""
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int, Key, PyTree

Metrics = dict[str, Any]  # flat: plain name -> scalar
Scalar = float | Float[Array, '']  # a setting that may change while a run runs


class TrainState(NamedTuple):
  """Exactly what a checkpoint holds: arrays only, no functions."""
  step: Int[Array, '']
  params: PyTree
  opt_state: PyTree
  key: Key[Array, '']  # the run's constant key: fold_in(stream), then counter


class Batch(NamedTuple):
  """Demonstrations."""
  tokens: Int[Array, 'B T']
  mask: Bool[Array, 'B T']  # True on the completion: what the loss counts


class Rollout(NamedTuple):
  """What the policy sampled and what the environment paid."""
  tokens: Int[Array, 'B T']
  mask: Bool[Array, 'B T']  # True on every token that the policy wrote
  turn_ids: Int[Array, 'B T']  # turn of each completion token, -1 elsewhere
  rewards: Float[Array, 'B T']  # on the token that ends the rewarded turn
  prompt_ids: Int[Array, 'B']  # completions of one prompt share one
  log_probs: Float[Array, 'B T']  # of the policy that sampled (behaviour)
  ref_log_probs: Float[Array, 'B T']  # of the frozen reference policy
  values: Float[Array, 'B T']  # critic's V(prefix before the token)
  weights: Float[Array, 'B T']  # of the token in its turn's log-prob
  sampler_log_probs: Float[Array, 'B T']  # what the sampler itself made of them
  truncated: Bool[Array, 'B']  # its last turn was cut: it met no stop


class Experience(NamedTuple):
  """A rollout with its credit assigned."""
  rollout: Rollout
  advantages: Float[Array, 'B T']
  returns: Float[Array, 'B T']

  @property
  def tokens(self):
    return self.rollout.tokens

  @property
  def mask(self):
    return self.rollout.mask


class Outputs(NamedTuple):
  """One forward pass; jit drops what an objective leaves unused."""
  log_probs: Float[Array, 'B T']
  entropy: Float[Array, 'B T']  # nats, of the distribution that scored t
  values: Float[Array, 'B T']
  hidden: Float[Array, 'B T D']


class Task(NamedTuple):
  """One problem, on the host."""
  prompt: str
  answer: Any  # what the environment needs to judge a completion


class Turn(NamedTuple):
  """The environment's reply to a completion, on the host."""
  observation: str  # feedback text, '' when the episode is done
  reward: float
  done: bool
  parts: dict[str, float]  # reward components and outcome, before combination


class Source(NamedTuple):
  """Where batches come from; optax's shape: state in, state out."""
  init: Callable[[], Any]
  next: Callable[..., tuple[Any, Any, Metrics]]
