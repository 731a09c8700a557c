"""Factors of a checkpoint, computed once and shared by every edit."""
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from rlft.ops import trees
from rlft.spectral import sharded, svd

Stacks = dict[str, Float[Array, '*L _ _']]


def bases(
    params: PyTree, select: str = trees.BLOCKS, mesh: Mesh | None = None,
) -> dict[str, svd.SVD]:
  """Path -> SVD of the selected matrices; ValueError as `check` raises."""
  return of(trees.matrices(params, select), mesh)


def of(stacks: Stacks, mesh: Mesh | None = None) -> dict[str, svd.SVD]:
  """Path -> SVD, by all devices of the mesh given or that the stacks are on."""
  check(stacks)
  mesh = mesh or sharded.mesh_of(stacks)
  if mesh is None:
    return {path: svd.decompose(stack) for path, stack in stacks.items()}
  return sharded.stacks(svd.decompose, stacks, mesh=mesh)


def check(stacks: Stacks) -> None:
  """ValueError with the name of a matrix that is not finite.

  LAPACK would hand back NaN without a word.
  """
  for path, stack in stacks.items():
    finite = np.asarray(jnp.isfinite(stack).all(axis=(-2, -1)))
    if not finite.all():
      layer = f', layer {int(np.argmin(finite))}' if finite.ndim else ''
      raise ValueError(
          f'{path}{layer} holds NaN or infinity: no singular values; '
          'take an earlier checkpoint')
