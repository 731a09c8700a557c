"""How far each matrix turned between two checkpoints, beside what chance does.

Claims 13 to 15 of arXiv 2508.16546: singular values hardly change, vectors
rotate by large angles, off-diagonal energy dominates; and the numbers of arXiv
2511.08567 and 2506.00772. Each stands beside its null (a random update of equal
norm and, when it is given, the update of another pair of checkpoints, run
through the same functions) and its floor (what the rounding of the stored
weights does), with a column that says whether it exceeds them.
"""
import functools
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from rlft.ops import trees
from rlft.spectral import (
    bases,
    clusters,
    comparison,
    excess,
    nulls,
    principal,
    published,
    svd,
    untrained,
)
from rlft.spectral.comparison import Comparison

FRACTIONS = (0.05, 0.1, 0.2, 0.5)  # of the directions, for the curve over k


def analyse(
    checkpoints: dict[str, PyTree], *, before: str, after: str, seed: int = 0,
    top: svd.Fraction = 0.2, draws: int = 4, select: str = trees.BLOCKS,
    null_before: str | None = None, null_after: str | None = None,
    reference: bool = False,
    stored: Mapping[str, Mapping[str, str]] | None = None,
    cache: bases.Cache | None = None,
) -> dict[str, Any]:
  """Rows (one per layer and module) and curves (arrays) of one comparison.

  All but 'curves' is plain JSON; `compare_stack` says what a row holds.
  `null_after` names a checkpoint whose update, from `null_before` (`before`
  unless given), is a null too. `stored` maps a checkpoint to the fingerprints
  (`trees.fingerprints`) of the tensors in its file: what is analysed must be
  what the file holds. `tensors` are the fingerprints of what was analysed,
  `warnings` sentences. Raises ValueError for an unknown checkpoint,
  checkpoints of different models, a matrix that is not finite or not the
  stored one.
  """
  null_before = before if null_before is None else null_before
  pairs = [before, after] + [null_before, null_after] * (null_after is not None)
  for name in pairs:
    if name not in checkpoints:
      raise ValueError(
          f'no checkpoint {name!r}; known: {", ".join(checkpoints)}')
    trees.same(checkpoints[before], checkpoints[name])
  if draws < 1 or not 0 < top <= 1:
    raise ValueError(f'draws={draws} must be positive, top={top} in (0, 1]')
  stacks = [trees.matrices(checkpoints[name], select) for name in pairs]
  tensors = [trees.fingerprints(x) for x in stacks]
  for name, found in zip(pairs, tensors, strict=True):
    trees.verify(found, (stored or {}).get(name, found), name)
  rows, curves = [], {'top': np.asarray(FRACTIONS, np.float32)}
  for path, module in trees.modules(list(stacks[0])).items():
    own = [x[path] for x in stacks]
    factors = [_factors(name, path, x, cache)
               for name, x in zip(pairs[:2], own, strict=False)]
    found, arrays = compare_stack(
        path, *own[:2], *factors, module=module, seed=seed, top=top,
        draws=draws, reference=reference,
        null_update=own[3].astype(jnp.float32) - own[2] if own[2:] else None)
    rows += found
    curves |= {f'{module}/{k}': v for k, v in arrays.items()}
  return {
      'before': before, 'after': after, 'seed': seed, 'top': top,
      'draws': draws, 'null_before': null_before, 'null_after': null_after,
      'null': f'Gaussian update of equal Frobenius norm, {draws} draws',
      'tensors': {p: [h[p] for h in tensors[:2]] for p in tensors[0]},
      'warnings': _warnings(rows),
      'rows': sorted(rows, key=lambda row: row['layer']), 'curves': curves}


def compare_stack(
    path: str, before: Float[Array, '*L M N'], after: Float[Array, '*L M N'],
    before_factors: svd.SVD, after_factors: svd.SVD, *, module: str,
    seed: int = 0, top: svd.Fraction = 0.2, draws: int = 4,
    null_update: Float[Array, '*L M N'] | None = None,
    reference: bool = False,
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
  """Rows (plain numbers, one dict per layer) and curves of one parameter.

  Every number X of `excess.NUMBERS` has the columns X; X_null, X_null_low and
  X_null_high, mean, smallest and largest of `draws` random updates of equal
  Frobenius norm; X_floor, the same for storage noise (of the format that the
  values of the two checkpoints show: stored_mantissa_bits); X_cross, for
  `null_update` scaled to that norm, where it is given; and exceeds_X: X is
  further from its value without an update (0, or 1 for cosine and alignment)
  than every draw, than X_cross and than X_floor. The update's norm has a floor
  only. A number is None where it is undefined: the share of changed entries
  where none changed.

  angle_top20_rad is the mean principal angle (radians) of the leading `top`
  directions by count, procrustes_rad that of their Procrustes rotation,
  angle_random_rad what unrelated subspaces have; all on the side of the matrix,
  input or output, that turned more. value_shift is the mean |change| / value of
  the same directions, nss over the spectrum. Energies, stable rank and shares
  are the update's. looks_untrained: the spectrum of `after` is that of
  independent entries (see `untrained`). With `reference`, angle_published_rad
  is the angle by the published formula. Nulls depend on seed and path, the
  floor on the path. Decompositions: one per draw, one for the floor, one for
  null_update.
  """
  found = _module(
      path, _stacked(before), _stacked(after), _stacked_svd(before_factors),
      _stacked_svd(after_factors), seed=seed, draws=draws, top=top,
      null_update=None if null_update is None else _stacked(null_update),
      reference=reference)
  return _rows(module, found), _curves(found)


def _factors(
    name: str, path: str, stack: Array, cache: bases.Cache | None) -> svd.SVD:
  try:
    return bases.factors(path, stack, cache)
  except ValueError as error:
    raise ValueError(f'checkpoint {name}: {error}') from error


def _warnings(rows: list[dict[str, Any]]) -> list[str]:
  if rows and all(row['looks_untrained'] for row in rows):
    return ['every matrix of the later checkpoint has the spectrum of '
            'independent random entries: were its weights loaded by name?']
  return []


def _stacked(w: Array) -> Float[Array, 'L M N']:
  """A single matrix, such as the head, counts as one layer."""
  return w.reshape(-1, *w.shape[-2:]).astype(jnp.float32)


def _stacked_svd(factors: svd.SVD) -> svd.SVD:
  return svd.SVD(
      _stacked(factors.u), factors.s.reshape(-1, factors.s.shape[-1]),
      _stacked(factors.vt))


class _Module(NamedTuple):
  """One stack against its nulls and its floor, on the host."""
  real: Comparison
  null: Comparison  # each field with a leading axis of draws
  floor: Comparison
  cross: Comparison | None
  values_before: np.ndarray
  weight_norm: np.ndarray
  groups: np.ndarray
  stored_bits: int
  random_angle: float  # radians
  untrained: list[bool]
  published: np.ndarray | None  # radians


def _module(
    path: str, weight: Float[Array, 'L M N'], target: Float[Array, 'L M N'],
    old: svd.SVD, new: svd.SVD, *, seed: int, draws: int, top: float,
    null_update: Float[Array, 'L M N'] | None, reference: bool,
) -> _Module:
  rank = min(weight.shape[-2:])
  counts = tuple(max(1, svd.count(f, rank)) for f in (top, *FRACTIONS))
  name = zlib.crc32(path.encode())
  stored = [nulls.stored_bits(x) for x in (weight, target)]
  update, noise, groups, heavy, length = _prepared(
      jax.random.key(name), weight, target, old, min(stored),
      stored[0] == min(stored), counts[0])
  compare = lambda factors, change: jax.device_get(comparison.compare(
      old, factors, weight, change, groups=groups, heavy=heavy, counts=counts))
  against = lambda change: compare(svd.decompose(weight + change), change)
  keys = jax.random.split(
      jax.random.fold_in(jax.random.key(seed), name), draws)
  null = [against(nulls.norm_matched(key, update)) for key in keys]
  cross = None
  if null_update is not None:
    cross = against(nulls.scaled(null_update, update))
  return jax.device_get(_Module(
      real=compare(new, update),
      null=jax.tree.map(lambda *x: np.stack(x), *null),
      floor=against(noise), cross=cross,
      values_before=old.s, weight_norm=length, groups=groups,
      stored_bits=min(stored),
      random_angle=float(max(x.mean() for x in nulls.random_subspace_angles(
          *weight.shape[-2:], counts[0]))),
      untrained=[untrained.looks_untrained(s, *weight.shape[-2:])
                 for s in np.asarray(new.s)],
      published=_published(old, new, counts[0]) if reference else None))


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _prepared(
    key: Array, weight: Float[Array, 'L M N'], target: Float[Array, 'L M N'],
    old: svd.SVD, bits: int, rounded: bool, k: int,
) -> tuple[Array, Array, Array, Array, Array]:
  """The update, storage noise, clusters, principal weights and norms."""
  noise = nulls.storage_noise(key, weight, bits, rounded)
  groups = clusters.groups(old.s, clusters.resolvable(old.s, noise))
  return (target - weight, noise, groups, principal.mask(old, k),
          jnp.linalg.norm(weight, axis=(-2, -1)))


@functools.partial(jax.jit, static_argnums=2)
def _published(old: svd.SVD, new: svd.SVD, k: int) -> Float[Array, 'L']:
  """The mean angle by the published formula, on the side of the larger."""
  sides = ((old.u, new.u), (old.vt.mT, new.vt.mT))
  return jnp.maximum(*(published.principal_angles(
      a[..., :k], b[..., :k]).mean(axis=-1) for a, b in sides))


def _rows(module: str, found: _Module) -> list[dict[str, Any]]:
  """Exactly one flat dict of plain numbers per layer."""
  columns = excess.columns(found.real, found.null, found.floor, found.cross)
  columns |= {
      'update_norm': found.real.update_norm,
      'update_norm_floor': found.floor.update_norm,
      'exceeds_update_norm': (
          found.real.update_norm > found.floor.update_norm),
      'weight_norm': found.weight_norm,
      'angle_random_rad': np.full(len(found.untrained), found.random_angle),
      'stored_mantissa_bits': np.full(len(found.untrained), found.stored_bits),
      'looks_untrained': np.asarray(found.untrained)}
  if found.published is not None:
    columns['angle_published_rad'] = found.published
  return [
      dict(layer=layer, module=module,
           **{name: excess.plain(x[layer]) for name, x in columns.items()})
      for layer in range(len(found.untrained))
  ]


def _curves(found: _Module) -> dict[str, np.ndarray]:
  real, null, floor = found.real, found.null, found.floor
  curves = {
      'values_before': found.values_before, 'values_after': real.values,
      'clusters': found.groups,
      'angle_by_top_null_low': null.angle_by_top.min(axis=0),
      'angle_by_top_null_high': null.angle_by_top.max(axis=0)}
  for name in ('angles', 'angle_by_top', 'procrustes_angles', 'cosine',
               'value_shift'):
    curves |= {
        name: getattr(real, name),
        f'{name}_null': getattr(null, name).mean(axis=0),
        f'{name}_floor': getattr(floor, name)}
  return curves
