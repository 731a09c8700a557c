"""Factors of a checkpoint, computed once and shared by every edit."""
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rlft.ops import trees
from rlft.spectral import svd


def bases(params: PyTree, select: str = trees.BLOCKS) -> dict[str, svd.SVD]:
  """Path -> SVD of the selected matrices.

  Raises ValueError with the name of a matrix that is not finite: LAPACK would
  hand back NaN without a word.
  """
  stacks = trees.matrices(params, select)
  for path, stack in stacks.items():
    finite = np.asarray(jnp.isfinite(stack).all(axis=(-2, -1)))
    if not finite.all():
      layer = f', layer {int(np.argmin(finite))}' if finite.ndim else ''
      raise ValueError(
          f'{path}{layer} holds NaN or infinity: no singular values; '
          'take an earlier checkpoint')
  return {path: svd.decompose(stack) for path, stack in stacks.items()}
