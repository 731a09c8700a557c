"""Adafactor (arXiv 1804.04235): of a matrix's second moment, its row and column
sums; no first moment.

8 bytes a parameter less than AdamW. Layers are stacked, so that the rule which
bounds a direction's root mean square (section 6) takes all layers together.
"""
import optax


def scale(
    *, decay: float = 0.8, eps: float = 1e-30, bound: float = 1.0,
    smallest: int = 128, relative: bool = False,
) -> optax.GradientTransformation:
  """g / sqrt(v), its root mean square at most `bound`.

  v decays by 1 - t**-decay at step t (section 7.2). Matrices with a side below
  `smallest` keep v whole. `relative`: times each parameter's root mean square
  (section 8), so that the rate is a share of it.
  """
  return optax.chain(
      optax.scale_by_factored_rms(
          decay_rate=decay, min_dim_size_to_factor=smallest, epsilon=eps),
      optax.clip_by_block_rms(bound),
      *([optax.scale_by_param_block_rms()] if relative else []))
