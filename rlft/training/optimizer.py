"""One optimizer tree for policy and critic, from optax."""
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from rlft.ops import trees
from rlft.training import spikes


def constant(learning_rate: float, warmup_steps: int, num_steps: int):
  """Linear warm-up, then constant."""
  del num_steps
  if not warmup_steps:  # optax reads this as a warm-up that never ends
    return optax.constant_schedule(learning_rate)
  return optax.warmup_constant_schedule(0.0, learning_rate, warmup_steps)


def cosine(learning_rate: float, warmup_steps: int, num_steps: int):
  """Linear warm-up, then a cosine to zero."""
  return optax.warmup_cosine_decay_schedule(
      0.0, learning_rate, warmup_steps, max(num_steps, warmup_steps + 1))


def log_warmup(learning_rate: float, warmup_steps: int, num_steps: int):
  """learning_rate * ln t / ln warmup, then constant (arXiv 2508.16546)."""
  del num_steps
  if warmup_steps < 2:
    return optax.constant_schedule(learning_rate)
  span = jnp.log(warmup_steps)

  def schedule(count):
    share = jnp.log(jnp.maximum(count + 1, 1)) / span
    return learning_rate * jnp.clip(share, 0.0, 1.0)

  return schedule


SCHEDULES: dict[str, Callable] = {
    'constant': constant, 'cosine': cosine, 'log_warmup': log_warmup}
ENDING = ('cosine',)  # those that reach 0 after so many steps


def make(
    *, scale: optax.GradientTransformation, num_steps: int,
    learning_rate: float, schedule: str = 'constant', warmup_steps: int = 0,
    horizon: int = 0,
    critic_learning_rate: float | None = None,
    critic_warmup_steps: int | None = None,
    weight_decay: float = 0.0, clip_norm: float = 1.0,
    spike_sigmas: float = 0.0, spike_window: int = 128,
) -> optax.GradientTransformation:
  """The optimizer of each group: 'policy' and, where there is one, 'critic'.

  A step is the rate times the direction `scale` plus decoupled decay (arXiv
  1711.05101). Adapters are the policy's: what is said of it here, its decay
  too, is of them.

  Gradients are clipped per group, so that a critic's error does not shrink the
  policy's step. The critic's rate and warm-up are the policy's unless given: a
  policy that warms up while its critic does not lets the critic, which starts
  at zero, learn the mean return first. Schedules that end do so after
  `num_steps` optimizer steps, or after `horizon` where that is set: a run may
  stop before its schedule does. With `spike_sigmas` above 0 steps that stand
  out are skipped, see `spikes`.
  """
  if schedule not in SCHEDULES:
    raise ValueError(
        f'no schedule {schedule!r}; known: {", ".join(sorted(SCHEDULES))}')

  def group(rate, warmup):
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.chain(
            scale, optax.add_decayed_weights(weight_decay),
            optax.scale_by_learning_rate(
                SCHEDULES[schedule](rate, warmup, horizon or num_steps))))

  given = lambda own, other: other if own is None else own
  critic = group(given(critic_learning_rate, learning_rate),
                 given(critic_warmup_steps, warmup_steps))
  tx = optax.partition(
      {'policy': group(learning_rate, warmup_steps), 'critic': critic},
      lambda params: {
          k: jax.tree.map(
              lambda _, k=k: 'critic' if k == 'critic' else 'policy', v)
          for k, v in params.items()})
  tx = optax.GradientTransformation(
      lambda params, init=tx.init: init(trees.trained(params)), tx.update)
  return spikes.skipping(
      tx, sigmas=spike_sigmas, window=spike_window) if spike_sigmas else tx
