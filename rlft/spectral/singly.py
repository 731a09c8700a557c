"""A pair of which one side's factors are in memory at a time.

For one edit, in little memory: either stack is loaded and decomposed in its
place when it is wanted, what the edit takes of the shorter group of directions
is set aside, and the rest is let go before the other side. All stacks lie (see
`in_place`), the result too.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlft.spectral import in_place, mixing, pairs


class Single(pairs.Pair):
  """`pairs.Pair` for one edit; loads give a stack anew, and keep none."""

  def __init__(
      self, after: in_place.Load, before: in_place.Load, rank: int):
    self._loads = {'new': after, 'old': before}
    self._rank = rank

  @property
  def rank(self) -> int:
    return self._rank

  @property
  def after(self) -> Float[Array, 'L R C']:
    return in_place.on_device(in_place.lying(self._loads['new']))

  @property
  def before(self) -> Float[Array, 'L R C']:
    return in_place.on_device(in_place.lying(self._loads['old']))

  @property
  def redirected(self) -> Float[Array, 'L R C']:
    s = self._factors_of('new').s
    return self._composed(self._factors_of('old')._replace(s=s))

  def rescaled(self, top: int, tail: int) -> Float[Array, 'L R C']:
    at, chosen = mixing.group(self.rank, top, tail)
    old = self._factors_of('old').s
    new = self._factors_of('new')
    change = (old - new.s) * (1 if chosen else -1)
    part = self._part(new._replace(s=change), at)
    whole = None if chosen else self._composed(new._replace(s=old))
    del new
    return mixing.rescale(self.after if chosen else whole, part, at)

  def exchanged(
      self, everything: str, top: int, tail: int) -> Float[Array, 'L R C']:
    at, chosen = mixing.group(self.rank, top, tail)
    new = self._factors_of('new')
    s, of_new = new.s, self._part(new, at)
    del new
    old = self._factors_of('old')
    if everything != 'before':
      old = old._replace(s=s)
    of_old = self._part(old, at)
    whole = (self._composed(old)
             if not chosen and everything != 'before' else None)
    del old
    if chosen:
      return mixing.exchange(self.after, of_new, of_old, at)
    return mixing.exchange(
        self.before if whole is None else whole, of_old, of_new, at)

  def orthonormal(
      self, everything: str, top: int, tail: int,
  ) -> tuple[Float[Array, 'L R C'], Float[Array, 'L']]:
    at, many, few, s = self._halves(everything, top, tail)
    side = lambda a, b: jax.block_until_ready(mixing.side(a, b, *at))
    v, sure = side(many.v, few.v)
    many, few = many.u, few.u
    u, sure_too = side(many, few)
    del many, few
    return self._composed(mixing.Rows(u, s, v)), jnp.minimum(sure, sure_too)

  def mixed(self, everything: str, top: int, tail: int) -> mixing.Rows:
    at, many, few, s = self._halves(everything, top, tail)
    return mixing.replaced(many, few, at.start, at.count)._replace(s=s)

  def _halves(
      self, everything: str, top: int, tail: int,
  ) -> tuple[mixing.Group, mixing.Rows, mixing.Rows, Float[Array, 'L R']]:
    """The group, all of one side, the group of the other, and the values."""
    at, chosen = mixing.group(self.rank, top, tail)
    found = self._factors_of('old' if chosen else 'new')
    s, few = found.s, self._part(found, at)
    del found
    many = self._factors_of('new' if chosen else 'old')
    old, new = (s, many.s) if chosen else (many.s, s)
    return at, many, few, pairs.values(everything, old, new, top, tail)

  def _factors_of(self, side: str) -> mixing.Rows:
    load = self._loads[side]
    found = in_place.decompose(
        in_place.lying(load), lambda: in_place.lying(load))
    return jax.block_until_ready(mixing.rows(found))

  def _part(self, factors: mixing.Rows, at: mixing.Group) -> mixing.Rows:
    return jax.block_until_ready(mixing.part(factors, at))

  def _composed(self, factors: mixing.Rows) -> Float[Array, 'L R C']:
    return jax.block_until_ready(pairs.composed(factors))
