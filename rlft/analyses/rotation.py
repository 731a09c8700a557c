"""How far each matrix turned between two checkpoints, beside what chance does.

Claims 13 to 15 of arXiv 2508.16546: singular values hardly change, vectors
rotate by large angles, off-diagonal energy dominates; and the numbers of arXiv
2511.08567 and 2506.00772. Each stands beside its null (a random update of equal
norm and, when it is given, the update of another pair of checkpoints, run
through the same functions) and its floor (what the rounding of the stored
weights does), with a column that says whether it exceeds them.
"""
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from rlft.ops import trees
from rlft.spectral import (
    bases,
    excess,
    in_place,
    measured,
    nulls,
    sharded,
    storage,
    svd,
    untrained,
)

FRACTIONS = (0.05, 0.1, 0.2, 0.5)  # of the directions, for the curve over k


def analyse(
    checkpoints: dict[str, PyTree], *, before: str, after: str, seed: int = 0,
    top: svd.Fraction = 0.2, draws: int = 4, select: str = trees.BLOCKS,
    null_before: str | None = None, null_after: str | None = None,
    reference: bool = False,
    stored: Mapping[str, Mapping[str, str]] | None = None,
    floor: str | None = None, cache: bases.Cache | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
  """Rows (one per layer and module) and curves (arrays) of one comparison.

  All but 'curves' is plain JSON; `compare_stack` says what a row holds.
  `null_after` names a checkpoint whose update, from `null_before` (`before`
  unless given), is a null too. `stored` maps a checkpoint to the fingerprints
  (`trees.fingerprints`) of the tensors in its file: what is analysed must be
  what the file holds. `floor` names the format whose rounding is the floor;
  without it, the one that the values show. `tensors` are the fingerprints of
  what was analysed, `warnings` sentences. Checkpoints that lie on a mesh, or
  any if `mesh` is given, are analysed by all of its devices. Raises ValueError
  for an unknown checkpoint, checkpoints of different models, a matrix that is
  not finite or not the stored one, or for a cache (one device's) beside a mesh.
  """
  null_before = before if null_before is None else null_before
  pairs = [before, after] + [null_before, null_after] * (null_after is not None)
  for name in pairs:
    if name not in checkpoints:
      raise ValueError(
          f'no checkpoint {name!r}; known: {", ".join(checkpoints)}')
    trees.same(checkpoints[before], checkpoints[name])
  if draws < 1:
    raise ValueError(f'draws={draws}: give a number from 1')
  if not 0 < top <= 1:
    raise ValueError(f'top={top} is a share of the directions: above 0, to 1')
  nulls.check_seed(seed)
  stacks = [trees.matrices(checkpoints[name], select) for name in pairs]
  tensors = [trees.fingerprints(x) for x in stacks]
  for name, found in zip(pairs, tensors, strict=True):
    trees.verify(found, (stored or {}).get(name, found), name)
  for name, own in zip(pairs, stacks, strict=True):
    _refuse_infinite(name, own)
  options = dict(seed=seed, top=top, draws=draws, reference=reference,
                 floor=floor)
  mesh = mesh or sharded.mesh_of(stacks)
  if mesh is not None and cache is not None:
    raise ValueError('a cache of factors is of one device: leave out the '
                     'cache, or the mesh')
  compared = (_one_by_one(stacks, cache, **options) if mesh is None
              else _over_devices(stacks, mesh, **options))
  rows, curves = [], {'top': np.asarray(FRACTIONS, np.float32)}
  for module, found, arrays in compared:
    rows += found
    curves |= {f'{module}/{k}': v for k, v in arrays.items()}
  return {
      'before': before, 'after': after, 'seed': seed, 'top': top,
      'draws': draws, 'null_before': null_before, 'null_after': null_after,
      'null': f'Gaussian update of equal Frobenius norm, {draws} draws',
      'tensors': {p: [h[p] for h in tensors[:2]] for p in tensors[0]},
      'warnings': warnings(rows),
      'rows': sorted(rows, key=lambda row: row['layer']), 'curves': curves}


def compare_stack(
    path: str, before: Float[Array, '*L M N'], after: Float[Array, '*L M N'],
    before_factors: svd.SVD, after_factors: svd.SVD, *, module: str,
    seed: int = 0, top: svd.Fraction = 0.2, draws: int = 4,
    null_update: Float[Array, '*L M N'] | None = None,
    reference: bool = False, floor: str | None = None,
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
  """Rows (plain numbers, one dict per layer) and curves of one parameter.

  Every number X of `excess.NUMBERS` has the columns X; X_null, X_null_low and
  X_null_high, mean, smallest and largest of `draws` random updates of equal
  Frobenius norm; X_floor, the same for storage noise (of the format `floor`, or
  of the one that the values of both show: floor_mantissa_bits); X_cross, for
  `null_update` scaled to that norm, where it is given; and exceeds_X: X is
  further from its value without an update (0, or 1 for cosine and alignment)
  than every draw, than X_cross and than X_floor. The update's norm has a floor
  only. A number is None where it is undefined: the share of changed entries
  where none changed.

  angle_top_rad is the mean principal angle (radians) of the leading `top`
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
  before, after = _stacked(before), _stacked(after)
  bits, rounded = _storage(before, after, floor)
  found = jax.device_get(measured.measure(
      before, after, _stacked_svd(before_factors), _stacked_svd(after_factors),
      measured.keys(path, seed, len(before), draws),
      None if null_update is None else _stacked(null_update),
      counts=measured.counts(min(before.shape[-2:]), (top, *FRACTIONS)),
      bits=bits, rounded=rounded, reference=reference))
  return _rows(module, found, bits, before.shape[-2:]), _curves(found)


def compare_in_turn(
    path: str, before: in_place.Load, after: in_place.Load, *,
    shape: tuple[int, ...], module: str, seed: int, top: svd.Fraction,
    draws: int, folder: pathlib.Path | None = None,
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
  """`compare_stack` in as little memory as `measured.in_turn` takes.

  Either stack, of `shape`, is loaded anew at every call. ValueError when it is
  of another one: a matrix laid out otherwise would be measured all the same.
  """
  def stacked(load):
    def loaded():
      found = load()
      if found.shape != tuple(shape):
        raise ValueError(f'{path} is {found.shape}, not {tuple(shape)}')
      return found.reshape(-1, *shape[-2:])
    return loaded

  found, bits = measured.in_turn(
      stacked(before), stacked(after),
      measured.keys(path, seed, math.prod(shape[:-2]), draws),
      fractions=(top, *FRACTIONS), folder=folder)
  return _rows(module, found, bits, shape[-2:]), _curves(found)


Compared = Iterator[tuple[str, list[dict[str, Any]], dict[str, np.ndarray]]]


def _one_by_one(
    stacks: list[dict[str, Array]], cache: bases.Cache | None,
    **options: Any,
) -> Compared:
  """Module, rows and curves of each parameter."""
  for path, module in trees.modules(list(stacks[0])).items():
    own = [x[path] for x in stacks]
    factors = [bases.factors(path, x, cache) for x in own[:2]]
    yield module, *compare_stack(
        path, *own[:2], *factors, module=module,
        null_update=own[3].astype(jnp.float32) - own[2] if own[2:] else None,
        **options)


def _over_devices(
    stacks: list[dict[str, Array]], mesh: Mesh, *, seed: int,
    top: svd.Fraction, draws: int, reference: bool, floor: str | None,
) -> Compared:
  """The same, every matrix measured whole on the device that is given it."""
  formats, found = {}, {}
  for path, before in stacks[0].items():
    kind = _storage(before, stacks[1][path], floor)
    formats.setdefault(kind, []).append(path)
  for (bits, rounded), paths in formats.items():
    arguments = [{path: x[path] for path in paths} for x in stacks]
    keys = {}
    for path, w in arguments[0].items():
      own = measured.keys(path, seed, math.prod(w.shape[:-2]), draws)
      keys[path] = own.reshape(*w.shape[:-2], -1)
    found |= sharded.tables(
        measured.alone, *arguments, mesh=mesh, rows=keys,
        fractions=(top, *FRACTIONS), bits=bits, rounded=rounded,
        reference=reference)
  for path, module in trees.modules(list(stacks[0])).items():
    *lead, m, n = stacks[0][path].shape
    flat = jax.tree.map(
        lambda x, n=len(lead): x.reshape(-1, *x.shape[n:]), found[path])
    bits, _ = next(k for k, paths in formats.items() if path in paths)
    yield module, _rows(module, flat, bits, (m, n)), _curves(flat)


def _storage(
    before: Array, after: Array, floor: str | None) -> tuple[int, bool]:
  """Mantissa bits of the floor, and whether `before` has no more.

  Those of the coarser of two, unless a format is named.
  """
  if floor is not None and floor not in storage.BITS:
    raise ValueError(f'no floor {floor!r}; known: {", ".join(storage.BITS)}')
  if floor is None:
    return storage.common(before, after)
  bits = storage.BITS[floor]
  return bits, storage.bits(before) <= bits


def _refuse_infinite(name: str, stacks: dict[str, Array]) -> None:
  for path, stack in stacks.items():
    try:
      bases.refuse_infinite(path, stack)
    except ValueError as error:
      raise ValueError(f'checkpoint {name}: {error}') from error


def warnings(rows: list[dict[str, Any]]) -> list[str]:
  """What a reader should know before the numbers of these rows."""
  if rows and all(row['looks_untrained'] for row in rows):
    return ['every matrix of the later checkpoint has the spectrum of '
            'independent random entries, as an untrained one has: look at how '
            'its weights were loaded before they were saved']
  return []


def _stacked(w: Array) -> Float[Array, 'L M N']:
  """A single matrix, such as the head, counts as one layer."""
  return w.reshape(-1, *w.shape[-2:]).astype(jnp.float32)


def _stacked_svd(factors: svd.SVD) -> svd.SVD:
  return svd.SVD(
      _stacked(factors.u), factors.s.reshape(-1, factors.s.shape[-1]),
      _stacked(factors.vt))


def _rows(
    module: str, found: measured.Measured, bits: int, shape: tuple[int, int],
) -> list[dict[str, Any]]:
  """Exactly one flat dict of plain numbers per layer."""
  layers, k = found.real.angles.shape
  random = nulls.random_subspace_angles(*shape, k)
  columns = excess.columns(
      found.real, _draws_first(found.null), found.floor, found.cross)
  columns |= {
      'update_norm': found.real.update_norm,
      'update_norm_floor': found.floor.update_norm,
      'exceeds_update_norm': (
          found.real.update_norm > found.floor.update_norm),
      'weight_norm': found.weight_norm,
      'angle_random_rad': np.full(layers, max(
          float(x.mean()) for x in random)),
      'floor_mantissa_bits': np.full(layers, bits),
      'looks_untrained': np.asarray([
          untrained.looks_untrained(s, *shape) for s in found.real.values])}
  if found.published is not None:
    columns['angle_published_rad'] = found.published
  return [
      dict(layer=layer, module=module,
           **{name: excess.plain(x[layer]) for name, x in columns.items()})
      for layer in range(layers)
  ]


def _draws_first(null: Any) -> Any:
  return jax.tree.map(lambda x: np.moveaxis(x, 1, 0), null)


def _curves(found: measured.Measured) -> dict[str, np.ndarray]:
  real, floor = found.real, found.floor
  null = _draws_first(found.null)
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
