"""Edits of a later checkpoint towards an earlier one, beside their controls.

Claims 16 to 18 of arXiv 2508.16546: restoring singular values does nothing,
restoring the directions of the top 20 % or the first quarter of the layers
recovers most of the lost performance. The paper has no controls; here plain
interpolation, noise of equal norm and removing the leading directions of the
update stand beside them. All edits touch the selected matrices only, so
embeddings, head and norms stay those of `after`.
"""
import functools
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from rlft.ops import trees
from rlft.spectral import bases, entries, pairs, published, restore


class Edited(NamedTuple):
  """One edit of a sweep; distances are Frobenius norms over all leaves."""
  label: str  # unique in its sweep
  kind: str
  control: bool
  params: PyTree
  distance_to_after: float
  distance_to_before: float


class _Sweep(NamedTuple):
  """What the edits of a sweep share; factors are made when first wanted."""
  after: dict[str, Array]
  before: dict[str, Array]
  pair: Any  # path -> pairs.Pair
  update_factors: Any  # path -> SVD
  modules: dict[str, str]  # path -> short name
  seed: int


def edits(
    before: PyTree, after: PyTree, *, sweep: Sequence[Mapping[str, Any]],
    seed: int = 0, select: str = trees.BLOCKS,
    cache: bases.Cache | None = None,
) -> Iterator[Edited]:
  """The edits of a sweep, one at a time, each a whole tree of parameters.

  An entry is `dict(kind='vectors', top=0.2, layers=(0, 0.25))`: see
  `entries.KINDS` for the kinds and their keywords. `interpolate` and `noise` go
  by `amount`, a fraction of the way, by `distance`, the Frobenius distance to
  `after` they shall end at, or by `match`, the label of an earlier edit whose
  distance it shall be. `reference=True` takes the published formulas, with
  their shortcut to reversion and without the polar correction. A matrix is
  factored once for the whole sweep, with `cache` (see `bases`) once for all
  sweeps that share it. The whole sweep is checked before the first edit:
  ValueError names an unknown kind or keyword, two equal entries, or an empty
  range.
  """
  trees.same(before, after)
  shared = _share(before, after, seed, select, cache)
  plans = _plans(sweep, shared)
  for label, kind, options in plans:
    if options.get('distance') is not None:
      _check_way(label, kind, options, shared)
  return _edits(before, after, shared, plans)


def check(
    like: PyTree, *, sweep: Sequence[Any], seed: int = 0,
    select: str = trees.BLOCKS,
) -> None:
  """What `edits` would refuse of a sweep, but for distances.

  Needs no weights: `like` is a tree of shapes (`jax.eval_shape`).
  """
  jax.eval_shape(
      lambda x: _plans(sweep, _share(x, x, seed, select, None)) and None,
      like)


def _plans(
    sweep: Sequence[Any], shared: _Sweep,
) -> list[tuple[str, str, dict[str, Any]]]:
  plans = [_plan(entry, shared) for entry in sweep]
  if not plans:
    raise ValueError('the sweep is empty: list edits in analysis.sweep')
  labels = [label for label, _, _ in plans]
  for at, (label, _, options) in enumerate(plans):
    if labels.count(label) > 1:
      raise ValueError(f'the sweep holds {label!r} twice; drop one')
    if options.get('match') not in (None, *labels[:at]):
      raise ValueError(
          f'{label}: no earlier edit {options["match"]!r} to match; known: '
          f'{", ".join(labels[:at]) or "none"}')
  return plans


def _share(
    before: PyTree, after: PyTree, seed: int, select: str,
    cache: bases.Cache | None,
) -> _Sweep:
  old, new = (trees.matrices(x, select) for x in (before, after))
  factors = lambda path, stack: bases.factors(path, stack, cache)
  pair = lambda path: pairs.Pair(
      new[path], old[path], after_factors=factors(path, new[path]),
      before_factors=factors(path, old[path]))
  return _Sweep(
      after=new, before=old, pair=functools.cache(pair),
      update_factors=functools.cache(
          lambda path: factors(path, new[path] - old[path])),
      modules=trees.modules(list(new)), seed=seed)


def _edits(
    before: PyTree, after: PyTree, shared: _Sweep,
    plans: list[tuple[str, str, dict[str, Any]]],
) -> Iterator[Edited]:
  moved: dict[str, float] = {}  # by label: how far each edit went
  for label, kind, options in plans:
    if options.get('match') is not None:
      options = {**options, 'match': None, 'distance': moved[options['match']]}
      _check_way(label, kind, options, shared)
    params = trees.replace(after, _edit(kind, options, shared))
    moved[label] = float(trees.distance(params, after))
    yield Edited(
        label, kind, entries.KINDS[kind].control, params, moved[label],
        float(trees.distance(params, before)))


def _plan(
    entry: Any, shared: _Sweep,
) -> tuple[str, str, dict[str, Any]]:
  """Label, kind and complete options of a sweep entry."""
  kind, options = entries.complete(entry)
  given = {k: v for k, v in entry.items() if k != 'kind'}
  label = f'{kind}, of {given}'
  try:
    label = entries.label(kind, options)
    _check(kind, options, shared)
  except (ValueError, TypeError, AttributeError) as error:
    raise ValueError(f'{label}: {error}') from error
  return label, kind, options


def _check(kind: str, options: dict[str, Any], shared: _Sweep) -> None:
  """ValueError with one line for options that have no meaning."""
  known = set(shared.modules.values())
  unknown = set(options.get('modules') or ()) - known
  if unknown:
    raise ValueError(
        f'no module {", ".join(sorted(unknown))}; known: '
        f'{", ".join(sorted(known))}')
  if entries.ranged(options):
    for stack in shared.after.values():
      if stack.ndim > 2:
        entries.span(options, len(stack))
  if kind != 'none' and not _places(options, shared):
    raise ValueError('no selected matrix is there; widen it')
  if 'top' in options and not options.get('reference'):
    chosen = [options.get(name) for name in entries.SELECTION]
    for path in _places(options, shared):
      try:
        restore.counts(min(shared.after[path].shape[-2:]), *chosen)
      except ValueError as error:
        raise ValueError(f'{shared.modules[path]}: {error}') from error
  if 'amount' in options:
    if sum(options[name] is not None for name in entries.STEP) != 1:
      raise ValueError(f'give one of {", ".join(entries.STEP)}')
    if options['amount'] is not None:  # others go by distances of weights
      _check_amount(kind, _amount(options, shared))


def _check_way(
    label: str, kind: str, options: dict[str, Any], shared: _Sweep) -> None:
  """ValueError for a step that goes by distance and ends too far."""
  try:
    _check_amount(kind, _amount(options, shared))
  except ValueError as error:
    raise ValueError(f'{label}: {error}') from error


def _check_amount(kind: str, amount: float) -> None:
  high = 1 if kind == 'interpolate' else math.inf
  if not 0 <= amount <= high + 1e-6:
    raise ValueError(
        f'amount {amount:g} is not between 0 (after) and {high} (before)')


def _places(options: dict[str, Any], shared: _Sweep) -> list[str]:
  """Paths of the matrices that an edit touches."""
  wanted = options.get('modules')
  return [
      path for path, module in shared.modules.items()
      if (wanted is None or module in wanted)
      # A matrix outside the stack, such as the head, is in no layer.
      and (not entries.ranged(options) or shared.after[path].ndim > 2)
  ]


def _amount(options: dict[str, Any], shared: _Sweep) -> float:
  """Fraction of the way that a step goes."""
  if options['amount'] is not None:
    return float(options['amount'])
  away = {}
  for path in _places(options, shared):
    after, before = shared.after[path], shared.before[path]
    away[path] = _within(options, after, before) - after
  whole = float(trees.norm(away))
  if not whole:
    raise ValueError('the checkpoints are equal there: no way to go')
  return float(options['distance']) / whole


def _within(options: dict[str, Any], after: Array, edited: Array) -> Array:
  if not entries.ranged(options):
    return edited
  span = entries.span(options, len(after))
  return restore.within(after, edited, layer_numbers=span)


def _edit(
    kind: str, options: dict[str, Any], shared: _Sweep) -> dict[str, Array]:
  """The edited matrices, by path."""
  if kind == 'none':
    return {}
  spectral = {
      name: options[name] for name in entries.SELECTION if name in options}
  if 'polar' in options and not options['reference']:
    spectral['polar'] = options['polar']
  formulas = published if options.get('reference') else restore
  amount = _amount(options, shared) if 'amount' in options else 0.0
  edited = {}
  for path in _places(options, shared):
    after, before = shared.after[path], shared.before[path]
    if kind in ('values', 'vectors', 'triplets'):
      new = getattr(formulas, kind)(shared.pair(path), **spectral)
    elif kind == 'low_rank':
      new = restore.low_rank(after, shared.update_factors(path), **spectral)
    elif kind == 'interpolate':
      new = restore.interpolate(after, before, amount=amount)
    elif kind == 'noise':
      key = jax.random.key(shared.seed)
      key = jax.random.fold_in(key, zlib.crc32(path.encode()))
      new = restore.noise(key, after, before, amount=amount)
    else:
      new = before
    edited[path] = _within(options, after, jnp.asarray(new))
  return edited
