"""A stack before and after, and what all spectral edits of it share."""
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlft.spectral import mixing, svd

Factors = svd.SVD | Float[Array, '*L M N']


class Pair:
  """Weights and factors of two checkpoints of a stack.

  Made from weights, factors, or both; what is not given, and the composed
  matrices that only some edits want, is made at the first use and kept. The
  matrices are float32.
  """

  def __init__(
      self, after: Factors, before: Factors, *,
      after_factors: svd.SVD | None = None,
      before_factors: svd.SVD | None = None):
    self._given = after, before
    self._factors = after_factors, before_factors
    self._last: dict[str, tuple[int, int, Array]] = {}

  @functools.cached_property
  def new(self) -> mixing.Rows:
    """Factors of `after`, directions as rows."""
    return mixing.rows(self._factors[0] or factored(self._given[0]))

  @functools.cached_property
  def old(self) -> mixing.Rows:
    """Factors of `before`, directions as rows."""
    return mixing.rows(self._factors[1] or factored(self._given[1]))

  @functools.cached_property
  def after(self) -> Float[Array, '*L M N']:
    return _weights(self._given[0])

  @functools.cached_property
  def before(self) -> Float[Array, '*L M N']:
    return _weights(self._given[1])

  @functools.cached_property
  def revalued(self) -> Float[Array, '*L M N']:
    """All values of `before` between the directions of `after`."""
    return composed(self.new._replace(s=self.old.s))

  @functools.cached_property
  def redirected(self) -> Float[Array, '*L M N']:
    """All directions of `before` around the values of `after`."""
    return composed(self.old._replace(s=self.new.s))

  @functools.cached_property
  def overlap(self) -> tuple[Array, Array]:
    """Old directions against new ones, input and output side, *L R R."""
    return mixing.overlaps(self.old, self.new)

  @property
  def mirrored(self) -> tuple[Array, Array]:
    """New directions against old ones."""
    u, v = self.overlap
    return u.mT, v.mT

  def rescaled(self, top: int, tail: int) -> Float[Array, '*L M N']:
    """`after` with leading and trailing values replaced by those of `before`.
    """
    at, chosen = mixing.group(self.rank, top, tail)
    change = (self.old.s - self.new.s) * (1 if chosen else -1)
    part = mixing.part(self.new._replace(s=change), at)
    return mixing.rescale(self.after if chosen else self.revalued, part, at)

  def exchanged(
      self, everything: str, top: int, tail: int) -> Float[Array, '*L M N']:
    """`after` with leading and trailing triplets replaced.

    `everything` names the property that has all of them replaced: `before`, or
    `redirected`, where the values stay. Made from the nearest of three: nothing
    replaced, everything, or the last result of this kind, so that a sweep costs
    what lies between its points; a result differs by float32's rounding with
    the way it was reached.
    """
    at, chosen = mixing.group(self.rank, top, tail)
    into = (self.old if everything == 'before'
            else self.old._replace(s=self.new.s))
    out, whole = (self.new, self.after) if chosen else (
        into, getattr(self, everything))
    into_group = into if chosen else self.new
    last_top, last_tail, last = self._last.get(everything, (0, -1, None))
    if last_tail == tail and abs(top - last_top) < at.count:
      between, _ = mixing.group(self.rank, abs(top - last_top), 0)
      at = between._replace(start=min(top, last_top))
      more = top > last_top
      out, into_group = (self.new, into) if more else (into, self.new)
      whole = last
    found = mixing.exchange(
        whole, mixing.part(out, at), mixing.part(into_group, at), at)
    self._last[everything] = top, tail, found
    return found

  def orthonormal(
      self, everything: str, top: int, tail: int,
  ) -> tuple[Float[Array, '*L M N'], Float[Array, '*L']]:
    """The same with bases made orthonormal, and their certainty."""
    at, chosen = mixing.group(self.rank, top, tail)
    many, few = (self.new, self.old) if chosen else (self.old, self.new)
    s = values(everything, self.old.s, self.new.s, top, tail)
    return mixing.orthonormal(
        many, few, self.overlap if chosen else self.mirrored, s, at)

  def mixed(self, everything: str, top: int, tail: int) -> mixing.Rows:
    """The triplets that `exchanged` composes."""
    at, chosen = mixing.group(self.rank, top, tail)
    many, few = (self.new, self.old) if chosen else (self.old, self.new)
    found = mixing.replaced(many, mixing.part(few, at), at.start, at.count)
    return found._replace(
        s=values(everything, self.old.s, self.new.s, top, tail))

  @property
  def rank(self) -> int:
    return self.new.s.shape[-1]


def values(
    everything: str, old: Float[Array, '*L R'], new: Float[Array, '*L R'],
    top: int, tail: int,
) -> Float[Array, '*L R']:
  """Those of an edit: of `before` where all its triplets would be taken."""
  if everything != 'before':
    return new
  index = jnp.arange(old.shape[-1])
  chosen = jnp.logical_or(index < top, index >= old.shape[-1] - tail)
  return jnp.where(jnp.broadcast_to(chosen, old.shape), old, new)


def pair(after: Factors | Pair, before: Factors | None) -> Pair:
  """The Pair of two stacks, or the one that is given."""
  if isinstance(after, Pair):
    if before is not None:
      raise ValueError('a Pair holds both checkpoints: give no other')
    return after
  if before is None:
    raise ValueError('give the stack before, or a Pair of both')
  return Pair(after, before)


def factored(x: Factors) -> svd.SVD:
  """The factors of x, if it is not them already."""
  return x if isinstance(x, svd.SVD) else svd.decompose(x)


@jax.jit
def composed(factors: mixing.Rows) -> Float[Array, '*L M N']:
  """The stack that factors with directions as rows are of."""
  return jnp.matmul(
      (factors.u * factors.s[..., None]).mT, factors.v, precision='highest')


def _weights(x: Factors) -> Float[Array, '*L M N']:
  return svd.compose(x) if isinstance(x, svd.SVD) else x.astype(jnp.float32)
