"""Low-rank adapters: y = x W + (alpha / rank) (x A) B (arXiv 2106.09685).

Adapted parameters have no 'policy': the base lies under `trees.FROZEN`, A and B
under 'lora', so what forgets the adapters finds nothing, rather than the base
weights. `variables` applies them beside a kernel, and W + A B is never made;
`merge` makes it, once, for whoever samples, evaluates, analyses or exports.
The scale lies beside the base: a checkpoint needs no config to be merged. Any
other scale is another alpha: rank-stabilised ones (arXiv 2312.03732) are
alpha = a sqrt(rank). There is no dropout on x.
"""
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree, Shaped

from rlft.ops import trees

LORA = 'lora'
POLICY, BASE = 'policy/', f'{trees.FROZEN}/policy/'  # paths in a checkpoint


def attach(
    params: PyTree, key: Key[Array, ''], *, rank: int, alpha: float = 16.0,
    select: str = '',
) -> PyTree:
  """{'policy', ...} with adapters of rank R; the function stays what it was.

  `select` is a regex on the paths of kernels; '' is `trees.BLOCKS`, and a rank
  of 0 is none. A is Gaussian with variance 1 / 3M, that of the paper's code,
  and B is 0. ValueError for a path that is no linear map, or a rank that is
  more than a matrix has.
  """
  if rank == 0:
    return params
  if rank < 0 or alpha <= 0:
    raise ValueError(f'{rank=} must be 0 or more, and {alpha=} above 0')
  policy = params['policy']
  kernels = trees.matrices(policy, select or trees.BLOCKS)
  tree: dict[str, Any] = {}
  for n, (path, kernel) in enumerate(kernels.items()):
    *module, leaf = path.split('/')
    if leaf != 'kernel':
      raise ValueError(f'{path} is no linear map: narrow {select=}')
    *stack, rows, columns = kernel.shape
    if rank > min(rows, columns):
      raise ValueError(
          f'{rank=} is more than {path} has, {min(rows, columns)}: lower it, '
          f'or narrow {select=}')
    at = tree
    for name in module:
      at = at.setdefault(name, {})
    a = jax.random.normal(jax.random.fold_in(key, n), (*stack, rows, rank))
    at['a'] = a * (3 * rows) ** -0.5
    at['b'] = jnp.zeros((*stack, rank, columns))
  frozen = {'policy': policy, 'scale': jnp.asarray(alpha / rank, jnp.float32)}
  others = {k: v for k, v in params.items() if k != 'policy'}
  return {trees.FROZEN: frozen, LORA: tree, **others}


def variables(params: PyTree) -> dict[str, PyTree]:
  """What `model.apply` takes: the policy's kernels, and adapters beside them.

  B comes scaled.
  """
  if LORA not in params:
    return {'params': params['policy']}
  frozen = params[trees.FROZEN]
  scaled = jax.tree_util.tree_map_with_path(
      lambda path, x: x * frozen['scale'] if path[-1].key == 'b' else x,
      params[LORA])
  return {'params': frozen['policy'], LORA: scaled}


def merge(params: PyTree) -> PyTree:
  """The same function as {'policy', ...}; without adapters, `params` itself.

  Only adapted kernels are new arrays; the others are those of `params`.
  """
  if LORA not in params:
    return params
  frozen, adapters = params[trees.FROZEN], trees.named(params[LORA])
  policy = trees.named(frozen['policy'])
  modules = [path.removesuffix('/a') for path in adapters if path[-2:] == '/a']
  whole = {
      f'{m}/kernel': merged(policy[f'{m}/kernel'], adapters[f'{m}/a'],
                            adapters[f'{m}/b'], frozen['scale'])
      for m in modules}
  others = {k: v for k, v in params.items() if k not in (trees.FROZEN, LORA)}
  return {'policy': trees.replace(frozen['policy'], whole), **others}


@jax.jit
def merged(
    kernel: Float[Array, '*L M N'], a: Float[Array, '*L M R'],
    b: Float[Array, '*L R N'], scale: Float[Array, ''],
) -> Float[Array, '*L M N']:
  """W + scale A B, in float32 on every device.

  A program of its own, so that all who merge get the same bits.
  """
  return kernel + scale * jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def policy_leaves(stored: Collection[str]) -> dict[str, str]:
  """Path of each leaf of the (merged) policy -> path of it in a checkpoint."""
  return {path.removeprefix(root): path for path in stored
          for root in (POLICY, BASE) if path.startswith(root)}


def load_leaf(
    path: str, stored: Collection[str], load: Callable[[str], np.ndarray],
) -> Shaped[np.ndarray, '...']:
  """One leaf of the (merged) policy, where `load` reads a checkpoint's."""
  found = load(policy_leaves(stored)[path])
  module, _, leaf = path.rpartition('/')
  if leaf != 'kernel' or f'{LORA}/{module}/a' not in stored:
    return found
  a, b = (load(f'{LORA}/{module}/{name}') for name in 'ab')
  return np.asarray(merged(found, a, b, load(f'{trees.FROZEN}/scale')))
