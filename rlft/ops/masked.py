"""The only reductions over tokens.

`mask` is boolean, has the shape of `x` and means "counts". What stands off
the mask is replaced before anything is computed with it, so an infinity or a
NaN there reaches neither the result nor its gradient. Sums are taken in
float32 at least.

With an all-false mask every reduction gives 0, not NaN: inside a jitted step
a NaN would poison the parameters, while a zero leaves them alone. A caller
who must tell "zero" from "nothing there" reports `count` beside it.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped


def keep(x: Shaped[Array, '*S'], mask: Bool[Array, '*S']
         ) -> Shaped[Array, '*S']:
  """`x` on the mask, 0 elsewhere."""
  return jnp.where(mask, x, jnp.zeros((), x.dtype))


def keep_all(tree: PyTree, mask: Bool[Array, 'B T']) -> PyTree:
  """`keep` for every per-token array of the tree; other shapes pass."""
  return jax.tree.map(
      lambda x: keep(x, mask) if x.shape == mask.shape else x, tree)


def count(mask: Bool[Array, '*S']) -> Int[Array, '']:
  """How many tokens count."""
  return mask.sum(dtype=jnp.int32)


def total(x: Shaped[Array, '*S'], mask: Bool[Array, '*S']
          ) -> Float[Array, '']:
  """Sum over the tokens that count."""
  return keep(x, mask).sum(dtype=jnp.promote_types(x.dtype, jnp.float32))


def mean(x: Shaped[Array, '*S'], mask: Bool[Array, '*S']
         ) -> Float[Array, '']:
  """Token mean: every token that counts weighs the same. 0 if none does."""
  return total(x, mask) / jnp.maximum(count(mask), 1)


def row_count(mask: Bool[Array, 'B T']) -> Int[Array, 'B']:
  """How many tokens of each row count."""
  return mask.sum(axis=1, dtype=jnp.int32)


def row_total(x: Shaped[Array, 'B T'], mask: Bool[Array, 'B T']
              ) -> Float[Array, 'B']:
  """Sum over the tokens of each row that count."""
  return keep(x, mask).sum(
      axis=1, dtype=jnp.promote_types(x.dtype, jnp.float32))


def row_mean(x: Shaped[Array, 'B T'], mask: Bool[Array, 'B T']
             ) -> Float[Array, 'B']:
  """Token mean of each row; 0 for a row of which no token counts."""
  return row_total(x, mask) / jnp.maximum(row_count(mask), 1)


def along_rows(x: Float[Array, 'B'], mask: Bool[Array, 'B T']
               ) -> Float[Array, 'B T']:
  """A row's number on each of its tokens that count, 0 elsewhere."""
  return keep(jnp.broadcast_to(x[:, None], mask.shape), mask)


def lasts(mask: Bool[Array, 'B T']) -> Bool[Array, 'B T']:
  """True at the last token of each row that counts."""
  after = jnp.cumsum(mask[:, ::-1], axis=1)[:, ::-1]
  return mask & (after == 1)


def maximum(x: Float[Array, '*S'], mask: Bool[Array, '*S']
            ) -> Float[Array, '']:
  """Largest value that counts; 0 if none does."""
  largest = jnp.where(mask, x, -jnp.inf).max()
  return jnp.where(mask.any(), largest, 0.)


def variance(x: Float[Array, '*S'], mask: Bool[Array, '*S']
             ) -> Float[Array, '']:
  """Population variance (divides by the count) under the mask."""
  # Two passes: the mean of squares minus the squared mean cancels in float32.
  return mean(jnp.square(keep(x, mask) - mean(x, mask)), mask)


def whiten(x: Float[Array, '*S'], mask: Bool[Array, '*S'], *,
           center: bool = True, epsilon: float = 1e-8) -> Float[Array, '*S']:
  """Unit variance under the mask, and zero mean if `center`; 0 off the mask.

  Divides by the population deviation, so one valid token gives 0 rather than
  a division by zero. `epsilon` is added to the variance: values of order one
  that are equal up to rounding stay near 0 instead of becoming noise.
  """
  shift = mean(x, mask) if center else jnp.zeros(())
  scale = jax.lax.rsqrt(variance(x, mask) + epsilon)
  return keep((keep(x, mask) - shift) * scale, mask)
