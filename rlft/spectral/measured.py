"""An update beside its nulls and its floor, as one traceable function.

Every matrix is measured by itself, with keys of its own, so that a stack is a
loop over its layers, and a part of it on another device gives the same numbers.
"""
import functools
import pathlib
import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Key, Shaped

from rlft.spectral import (
    clusters,
    comparison,
    in_place,
    nulls,
    principal,
    published,
    storage,
    svd,
)
from rlft.spectral.comparison import Comparison


class Measured(NamedTuple):
  """One stack against its nulls and its floor."""
  real: Comparison
  null: Comparison  # each field with a second axis of draws
  floor: Comparison
  cross: Comparison | None
  values_before: Float[Array, 'L R']
  weight_norm: Float[Array, 'L']
  groups: Int[Array, 'L R']
  published: Float[Array, 'L'] | None  # radians


def keys(
    path: str, seed: int, layers: int, draws: int,
) -> Key[Array, 'L D']:
  """For each matrix, one key for its floor and one for each draw.

  The floor's depend on the path only, the draws' on the seed as well.
  """
  name = zlib.crc32(path.encode())
  return jnp.concatenate([
      jax.random.split(jax.random.key(name), (layers, 1)),
      jax.random.split(
          jax.random.fold_in(jax.random.key(seed), name), (layers, draws))], 1)


@functools.partial(
    jax.jit, static_argnames=('counts', 'bits', 'rounded', 'reference'))
def measure(
    weight: Float[Array, 'L M N'], target: Float[Array, 'L M N'],
    old: svd.SVD, new: svd.SVD, keys: Key[Array, 'L D'],
    null_update: Float[Array, 'L M N'] | None = None, *,
    counts: tuple[int, ...], bits: int, rounded: bool, reference: bool,
) -> Measured:
  """The update target - weight, whose factors are `old` and `new`.

  `counts` are those of `comparison.compare`, `bits` and `rounded` those of
  `storage.noise`; `null_update` is that of another pair of checkpoints.
  Random updates are made, and their matrices factored, one after another.
  """
  update = target - weight
  noise = _noise(keys[:, 0], weight, bits, rounded)
  groups, heavy = _groups(old.s, noise), principal.mask(old, counts[0])
  changes = [lambda i: update, lambda i: noise]
  if null_update is not None:
    changes.append(lambda i: nulls.scaled(null_update, update))
  last = len(changes)
  changes.append(lambda i: jax.vmap(nulls.norm_matched)(
      keys[:, i - last + 1], update))

  def against(i):
    change = jax.lax.switch(jnp.minimum(i, last), changes, i)
    factors = jax.lax.cond(
        i == 0, lambda: new, lambda: svd.decompose(weight + change))
    return comparison.compare(
        old, factors, weight, change, groups=groups, heavy=heavy,
        counts=counts)

  found = jax.lax.map(against, jnp.arange(last + keys.shape[1] - 1))
  pick = lambda i: jax.tree.map(lambda x: x[i], found)
  return Measured(
      real=pick(0), floor=pick(1),
      cross=None if null_update is None else pick(2),
      null=jax.tree.map(lambda x: jnp.moveaxis(x[last:], 0, 1), found),
      values_before=old.s, weight_norm=jnp.linalg.norm(weight, axis=(-2, -1)),
      groups=groups,
      published=_published(old, new, counts[0]) if reference else None)


def in_turn(
    before: in_place.Load, after: in_place.Load, keys: Key[Array, 'L D'], *,
    fractions: tuple[svd.Fraction, ...], folder: pathlib.Path | None = None,
) -> tuple[Measured, int]:
  """`measure` on the host and in little memory, and the bits it took.

  One program per step instead of one in all; every matrix lies (`in_place`)
  and is decomposed in its own memory, beside nothing but the factors of
  `before`, and where those are large (`in_place.set_aside`, in `folder`) not
  even them. Either stack is loaded anew whenever it is wanted: who loads keeps
  none.
  """
  weights = functools.partial(in_place.lying, before)
  bits, rounded = storage.coarser(*map(_bits, (before, after)))
  norm = np.asarray(_norms(in_place.on_device(weights())))
  old = in_place.decompose(weights(), weights)
  shape = np.shape(before())
  s = old.s
  size = counts(s.shape[-1], fractions)
  storing = lambda: _storing(keys[:, 0], np.asarray(before()), bits, rounded)
  groups = jax.block_until_ready(_groups(s, storing()))
  heavy = np.packbits(principal.mask(old, size[0]), axis=-1)

  def beside(
      change: Callable[[], Array], sum_: Callable[[Array], np.ndarray],
  ) -> Comparison:
    """Of a change, which is made again only where LAPACK gives up."""
    made = change()
    found = comparison.spread(kept, made, size[0])
    large = jax.device_put(np.unpackbits(
        heavy, axis=-1, count=made.shape[-1]).view(bool))
    found |= comparison.placed(made, large)
    found |= comparison.stored(in_place.on_device(weights()), made, large)
    del large
    total = sum_(made)
    del made
    new = in_place.decompose(total, lambda: sum_(change()))
    del total
    with in_place.set_aside(new, folder) as new:
      found |= comparison.factored(kept, new, groups, size)
    return jax.device_get(Comparison(**found))

  update = lambda: in_place.on_device(in_place.difference(after, before))
  add = functools.partial(_sum, before)
  with in_place.set_aside(old, folder) as kept:
    del old
    real = beside(update, lambda _: in_place.lying(after))
    like = jax.block_until_ready(nulls.size(update()))
    floor = beside(storing, add)
    draws = [
        beside(lambda i=i: _gaussian(keys[:, i], like, shape[1:]), add)
        for i in range(1, keys.shape[1])]
  return Measured(
      real=real, floor=floor, cross=None,
      null=jax.tree.map(lambda *x: np.stack(x, axis=1), *draws),
      values_before=np.asarray(s), weight_norm=norm,
      groups=np.asarray(groups), published=None), bits


def _bits(load: in_place.Load) -> int:
  return storage.bits(in_place.on_device(in_place.lying(load)))


@jax.jit
def _norms(w: Float[Array, 'L R C']) -> Float[Array, 'L']:
  return jnp.linalg.norm(w, axis=(-2, -1))


def _sum(
    load: in_place.Load, change: Float[Array, 'L R C'],
) -> Float32[np.ndarray, 'L R C']:
  """Of what is loaded and a change, in new memory."""
  found = in_place.lying(load)
  found += np.asarray(change)
  return found


def _storing(
    keys: Key[Array, 'L'], w: Shaped[np.ndarray, 'L M N'], bits: int,
    rounded: bool,
) -> Float[Array, 'L R C']:
  """`_noise`, lying, made by rows."""
  found = in_place.empty(in_place.view(w).shape)
  for key, own, layer in zip(keys, w, found, strict=True):
    place = layer.T if in_place.turned(w.shape) else layer
    for rows, noise in storage.noise_by_rows(key, own, bits, rounded):
      place[rows] = noise
  return in_place.on_device(found)


@functools.partial(jax.jit, static_argnums=2)
def _gaussian(
    keys: Key[Array, 'L'], like: nulls.Size, shape: tuple[int, int],
) -> Float[Array, 'L R C']:
  """A random change of each matrix of a shape, lying."""
  found = jax.vmap(lambda key, size: nulls.gaussian(key, size, shape))(
      keys, like)
  return found.mT if in_place.turned(shape) else found


@jax.jit
def _groups(
    s: Float[Array, 'L R'], noise: Float[Array, 'L M N']) -> Int[Array, 'L R']:
  return clusters.groups(s, clusters.resolvable(s, noise))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _noise(
    keys: Key[Array, 'L'], weight: Float[Array, 'L M N'], bits: int,
    rounded: bool,
) -> Float[Array, 'L M N']:
  return jax.vmap(functools.partial(
      storage.noise, bits=bits, stored=rounded))(keys, weight)


def alone(
    weight: Float[Array, 'M N'], target: Float[Array, 'M N'], *rest: Array,
    fractions: tuple[svd.Fraction, ...], **options: bool | int,
) -> Measured:
  """`measure` of one matrix, factored here: a kernel of `sharded.tables`.

  `rest` are the null's matrix before and after, where there is one, and the
  keys. Without the axis of layers.
  """
  *other, own = rest
  stacked = [w.astype(jnp.float32)[None] for w in (weight, target, *other)]
  found = measure(
      *stacked[:2], *map(svd.decompose, stacked[:2]), own[None],
      stacked[3] - stacked[2] if other else None,
      counts=counts(min(weight.shape), fractions), **options)
  return jax.tree.map(lambda x: x[0], found)


def counts(
    rank: int, fractions: tuple[svd.Fraction, ...]) -> tuple[int, ...]:
  """Directions, at least one, for each fraction of a rank."""
  return tuple(max(1, svd.count(f, rank)) for f in fractions)


def _published(old: svd.SVD, new: svd.SVD, k: int) -> Float[Array, 'L']:
  """The mean angle by the published formula, on the side of the larger."""
  sides = ((old.u, new.u), (old.vt.mT, new.vt.mT))
  return jnp.maximum(*(published.principal_angles(
      a[..., :k], b[..., :k]).mean(axis=-1) for a, b in sides))
