"""One matrix edited, in memory for about five of it."""
import functools
import zlib
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Key

from rlft.spectral import (
    entries,
    in_place,
    nulls,
    published,
    restore,
    singly,
)
from rlft.spectral.in_place import Load


def edited(
    before: Load, after: Load, entry: dict[str, Any], *, path: str, seed: int,
    shape: tuple[int, ...],
) -> Float32[np.ndarray, 'L M N']:
  """What the one entry of a sweep of `restoration.edits` makes of a stack.

  Of `shape`, loaded anew whenever it is wanted. To float32's rounding the same.
  """
  kind, options = entries.complete(entry)
  if kind == 'revert':
    found = np.array(before(), np.float32)
  else:
    found = _lying(kind, before, after, options, shape, _key(path, seed))
    found = found.mT if in_place.turned(shape) else found
  if not entries.ranged(options):
    return found
  whole = np.array(after(), np.float32)
  inside = slice(*entries.span(options, shape[0]))
  whole[inside] = found[inside]
  return whole


def _key(path: str, seed: int) -> Key[Array, '']:
  return jax.random.fold_in(
      jax.random.key(seed), zlib.crc32(path.encode()))


def _lying(
    kind: str, before: Load, after: Load, options: dict[str, Any],
    shape: tuple[int, ...], key: Key[Array, ''],
) -> Float32[np.ndarray, 'L R C']:
  chosen = {k: options[k] for k in entries.SELECTION if k in options}
  update = functools.partial(in_place.difference, after, before)
  whole = lambda: in_place.on_device(in_place.lying(after))
  if kind == 'interpolate':
    return np.asarray(restore.interpolate(
        whole(), in_place.on_device(in_place.lying(before)),
        amount=float(options['amount'])))
  if kind == 'noise':
    like = jax.block_until_ready(nulls.size(in_place.on_device(update())))
    step = _gaussian(key, like, shape)
    return np.asarray(_added(whole(), step, float(options['amount'])))
  if kind == 'low_rank':
    factors = in_place.decompose(update(), update)
    return np.asarray(restore.low_rank(whole(), factors, **chosen))
  if 'polar' in options and not options['reference']:
    chosen['polar'] = options['polar']
  formulas = published if options.get('reference') else restore
  return np.asarray(getattr(formulas, kind)(
      singly.Single(after, before, min(shape[-2:])), **chosen))


@functools.partial(jax.jit, static_argnums=2)
def _gaussian(
    key: Key[Array, ''], like: nulls.Size, shape: tuple[int, ...],
) -> Float[Array, 'L R C']:
  found = nulls.gaussian(key, like, shape)
  return found.mT if in_place.turned(shape) else found


@jax.jit
def _added(
    whole: Float[Array, 'L R C'], step: Float[Array, 'L R C'],
    amount: float | Float[Array, ''],
) -> Float[Array, 'L R C']:
  return whole + amount * step
