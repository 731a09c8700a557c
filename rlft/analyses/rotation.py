"""How far each matrix turned between two checkpoints, beside what chance does.

Claims 13 to 15 of arXiv 2508.16546: singular values hardly change, vectors
rotate by large angles, off-diagonal energy dominates. Each number stands beside
its null (a random update of equal norm, run through the same functions) and
its floor (what rounding the weights to bfloat16 does).
"""
import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, PyTree

from rlft.ops import trees
from rlft.spectral import bases, nulls, rotation, sharded, svd

FRACTIONS = (0.05, 0.1, 0.2, 0.5)  # of the directions, for the curve over k


class Comparison(NamedTuple):
  """What one update did to a stack of matrices."""
  angles: Float[Array, 'L K']  # radians, the side that turned more
  angle: Float[Array, 'L']  # their mean
  angle_by_top: Float[Array, 'L F']  # the mean at other numbers of directions
  cosine: Float[Array, 'L R']  # the side that turned more
  value_shift: Float[Array, 'L R']
  values: Float[Array, 'L R']
  energy: rotation.Energy


def analyse(
    checkpoints: dict[str, PyTree], *, before: str, after: str, seed: int = 0,
    top: svd.Fraction = 0.2, draws: int = 4, select: str = trees.BLOCKS,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
  """Rows (one per layer and module) and curves (arrays) of one comparison.

  All but 'curves' is plain JSON. angle_top20_rad is the mean principal angle
  (radians) of the leading `top` directions by count, on the side of the matrix,
  input or output, that turned more. angle_null_low_rad and angle_null_high_rad
  are the smallest and largest of the null's draws; the other null numbers are
  their means. value_shift is the mean |change| / value of the same directions,
  stable_rank the update's. Checkpoints that lie on a mesh, or any if `mesh` is
  given, are analysed by all of its devices. Raises ValueError for an unknown
  checkpoint, checkpoints of different models, or a matrix that is not finite.
  """
  for name in (before, after):
    if name not in checkpoints:
      raise ValueError(
          f'no checkpoint {name!r}; known: {", ".join(checkpoints)}')
  if draws < 1 or not 0 < top <= 1:
    raise ValueError(f'draws={draws} must be positive, top={top} in (0, 1]')
  old, new = checkpoints[before], checkpoints[after]
  trees.same(old, new)
  weights, targets = (trees.matrices(x, select) for x in (old, new))
  modules = trees.modules(list(weights))
  options = dict(seed=seed, top=top, draws=draws)
  mesh = mesh or sharded.mesh_of((weights, targets))
  if mesh is None:
    factors = [_named(n, bases.of, x)
               for n, x in ((before, weights), (after, targets))]
    compared = {path: compare_stack(
        path, weights[path], targets[path], *(f[path] for f in factors),
        module=module, **options) for path, module in modules.items()}
  else:
    for name, stacks in ((before, weights), (after, targets)):
      _named(name, bases.check, stacks)
    compared = _over_devices(weights, targets, modules, mesh, **options)
  rows, curves = [], {'top': np.asarray(FRACTIONS, np.float32)}
  for path, (found, arrays) in compared.items():
    rows += found
    curves |= {f'{modules[path]}/{k}': v for k, v in arrays.items()}
  return {
      'before': before, 'after': after, 'seed': seed, 'top': top,
      'draws': draws,
      'null': f'Gaussian update of equal Frobenius norm, {draws} draws',
      'rows': sorted(rows, key=lambda row: row['layer']), 'curves': curves}


def compare_stack(
    path: str, before: Float[Array, '*L M N'], after: Float[Array, '*L M N'],
    before_factors: svd.SVD, after_factors: svd.SVD, *, module: str,
    seed: int = 0, top: svd.Fraction = 0.2, draws: int = 4,
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
  """Rows and curves of one parameter; its null depends on seed and path."""
  before = _stacked(before)
  found = jax.device_get(_measure(
      before, _stacked(after), _stacked_svd(before_factors),
      _stacked_svd(after_factors), _keys(path, seed, len(before), draws),
      top=top))
  return _rows(module, found), _curves(found)


def _over_devices(
    before: dict[str, Array], after: dict[str, Array], modules: dict[str, str],
    mesh: Mesh, *, seed: int, top: svd.Fraction, draws: int,
) -> dict[str, tuple[list[dict[str, Any]], dict[str, np.ndarray]]]:
  """`compare_stack` for every path, matrix by matrix where there is room."""
  keys = {path: _keys(path, seed, w[..., 0, 0].size, draws).reshape(
      *w.shape[:-2], draws) for path, w in before.items()}
  found = sharded.tables(
      _one, before, after, mesh=mesh, rows=keys, top=top)
  flat = {
      path: jax.tree.map(lambda x, n=before[path].ndim - 2: x.reshape(
          -1, *x.shape[n:]), table) for path, table in found.items()}
  return {path: (_rows(modules[path], table), _curves(table))
          for path, table in flat.items()}


def _one(
    before: Float[Array, 'M N'], after: Float[Array, 'M N'],
    keys: Key[Array, 'draws'], *, top: svd.Fraction,
) -> '_Module':
  """The measurements of one matrix, without the axis of layers."""
  pair = [_stacked(w) for w in (before, after)]
  found = _measure(*pair, *map(svd.decompose, pair), keys[None], top=top)
  return jax.tree.map(lambda x: x[0], found)


def _keys(
    path: str, seed: int, layers: int, draws: int,
) -> Key[Array, 'L draws']:
  """One key per matrix and draw, whoever works on it."""
  key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(path.encode()))
  return jax.random.split(key, (layers, draws))


def _named(name: str, function: Callable, stacks: dict[str, Array]) -> Any:
  try:
    return function(stacks)
  except ValueError as error:
    raise ValueError(f'checkpoint {name}: {error}') from error


def _stacked(w: Array) -> Float[Array, 'L M N']:
  """A single matrix, such as the head, counts as one layer."""
  return w.reshape(-1, *w.shape[-2:]).astype(jnp.float32)


def _stacked_svd(factors: svd.SVD) -> svd.SVD:
  if factors.s.ndim == 1:
    return svd.SVD(*(x[None] for x in factors))
  return factors


class _Module(NamedTuple):
  """One stack against its null and its floor."""
  real: Comparison
  null: Comparison  # each field with a second axis of draws
  floor: Comparison
  values_before: Float[Array, 'L R']
  update_norm: Float[Array, 'L']
  weight_norm: Float[Array, 'L']
  stable_rank: Float[Array, 'L']


@functools.partial(jax.jit, static_argnames='top')
def _measure(
    weight: Float[Array, 'L M N'], target: Float[Array, 'L M N'],
    old: svd.SVD, new: svd.SVD, keys: Key[Array, 'L draws'], *,
    top: svd.Fraction,
) -> _Module:
  """Every layer by itself, so that a part of a stack will do."""
  rank = min(weight.shape[-2:])
  counts = tuple(max(1, svd.count(f, rank)) for f in (top, *FRACTIONS))
  update = target - weight

  def against(i):  # the update, the floor, draws of the null: one at a time
    change = jax.lax.switch(jnp.minimum(i, 2), [
        lambda: update, lambda: nulls.bf16_floor(weight),
        lambda: jax.vmap(nulls.norm_matched)(keys[:, i - 2], update)])
    factors = jax.lax.cond(
        i == 0, lambda: new, lambda: svd.decompose(weight + change))
    return _compare(old, factors, change, counts)

  found = jax.lax.map(against, jnp.arange(2 + keys.shape[1]))
  pick = lambda i: jax.tree.map(lambda x: x[i], found)
  lengths = [jnp.linalg.norm(x, axis=(-2, -1)) for x in (update, weight)]
  return _Module(
      real=pick(0), floor=pick(1),
      null=jax.tree.map(lambda x: jnp.moveaxis(x[2:], 0, 1), found),
      values_before=old.s, update_norm=lengths[0], weight_norm=lengths[1],
      stable_rank=rotation.stable_rank(svd.decompose(update).s))


def _compare(
    old: svd.SVD, new: svd.SVD, update: Float[Array, 'L M N'],
    counts: tuple[int, ...],
) -> Comparison:
  angles = {k: _turned(old, new, k) for k in counts}  # equal counts once
  means = [angles[k].mean(axis=-1) for k in counts]
  return Comparison(
      angles=angles[counts[0]], angle=means[0],
      angle_by_top=jnp.stack(means[1:], axis=-1),
      cosine=jnp.minimum(*rotation.cosine(old, new)),
      value_shift=rotation.value_shift(old.s, new.s), values=new.s,
      energy=rotation.energy(old, update))


def _turned(old: svd.SVD, new: svd.SVD, k: int) -> Float[Array, 'L K']:
  """Principal angles of the leading k, on the side of the larger mean."""
  inputs, outputs = rotation.subspace_angles(
      svd.leading(old, k), svd.leading(new, k))
  more = inputs.mean(axis=-1, keepdims=True) >= outputs.mean(
      axis=-1, keepdims=True)
  return jnp.where(jnp.broadcast_to(more, inputs.shape), inputs, outputs)


def _rows(module: str, found: _Module) -> list[dict[str, Any]]:
  """Exactly one flat dict of plain numbers per layer."""
  real, null, floor = found.real, found.null, found.floor
  leading = slice(None, real.angles.shape[-1])
  shift = lambda c: c.value_shift[..., leading].mean(axis=-1)
  columns = {
      'angle_top20_rad': real.angle,
      'angle_null_rad': null.angle.mean(axis=1),
      'angle_null_low_rad': null.angle.min(axis=1),
      'angle_null_high_rad': null.angle.max(axis=1),
      'angle_floor_rad': floor.angle,
      'value_shift': shift(real),
      'value_shift_null': shift(null).mean(axis=1),
      'value_shift_floor': shift(floor),
      'energy_diagonal': real.energy.diagonal,
      'energy_rotated': real.energy.rotated,
      'energy_outside': real.energy.outside,
      'energy_diagonal_null': null.energy.diagonal.mean(axis=1),
      'update_norm': found.update_norm,
      'weight_norm': found.weight_norm,
      'stable_rank': found.stable_rank}
  return [
      dict(layer=layer, module=module,
           **{name: float(x[layer]) for name, x in columns.items()})
      for layer in range(len(real.angle))
  ]


def _curves(found: _Module) -> dict[str, np.ndarray]:
  real, null, floor = found.real, found.null, found.floor
  return {
      'angles': real.angles, 'angles_null': null.angles.mean(axis=1),
      'cosine': real.cosine, 'cosine_null': null.cosine.mean(axis=1),
      'value_shift': real.value_shift,
      'value_shift_null': null.value_shift.mean(axis=1),
      'values_before': found.values_before, 'values_after': real.values,
      'angle_by_top': real.angle_by_top,
      'angle_by_top_null': null.angle_by_top.mean(axis=1),
      'angle_by_top_null_low': null.angle_by_top.min(axis=1),
      'angle_by_top_null_high': null.angle_by_top.max(axis=1),
      'angle_by_top_floor': floor.angle_by_top}
