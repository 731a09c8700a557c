"""What storing weights in a narrow format does to them: the noise floor.

The format is read off the values, so that bfloat16 weights in float32 arrays
are known for what they are.
"""
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Key, Shaped

ROWS = 256  # at a time
ENTRIES = 2**18  # the same on the host
BITS = {'bfloat16': 7, 'float16': 10, 'float32': 23}  # of the mantissa
FORMATS = {7: (8, 7), 10: (5, 10), 23: (8, 23)}  # mantissa: exponent, mantissa
LEAST = 2.**-14  # of float16's normal numbers; below, steps stay what they are
STEP = LEAST * 2**-10


def rounded(w: Float[Array, '*L M N'], bits: int) -> Float[Array, '*L M N']:
  """w as the format with `bits` of mantissa holds it, in float32."""
  w = w.astype(jnp.float32)
  # Not by casting to and fro, which a compiler may simplify away.
  near = jax.lax.reduce_precision(w, *FORMATS[bits])
  if bits != 10:  # the others' range is float32's
    return near
  return jnp.where(jnp.abs(w) < LEAST, jnp.round(w / STEP) * STEP, near)


def bits(w: Float[Array, '*L M N']) -> int:
  """Mantissa bits of the coarsest format that holds every entry exactly.

  7 for bfloat16, 10 for float16, 23 for float32.
  """
  for mantissa in FORMATS:
    if bool(_exact(w, mantissa)):
      return mantissa
  raise ValueError('a matrix that is not finite has no storage format')


@functools.partial(jax.jit, static_argnums=1)
def _exact(w: Float[Array, '*L M N'], mantissa: int) -> Bool[Array, '']:
  return jnp.all(rounded(w, mantissa) == w.astype(jnp.float32))


def common(
    before: Float[Array, '*L M N'], after: Float[Array, '*L M N'],
) -> tuple[int, bool]:
  """Mantissa bits of the coarser of two, and whether `before` has no more."""
  return coarser(bits(before), bits(after))


def coarser(before: int, after: int) -> tuple[int, bool]:
  """The same of the bits of two."""
  return min(before, after), before <= after


@functools.partial(jax.jit, static_argnums=(2, 3))
def noise(
    key: Key[Array, ''], w: Float[Array, '*L M N'], bits: int, stored: bool,
) -> Float[Array, '*L M N']:
  """A change of w that storing with `bits` of mantissa could have made.

  Where w itself is finer (`stored` is False): what rounding does to it. Where
  both checkpoints are stored so: two independent errors, each uniform over half
  a step either way, as large as theirs may be.
  """
  w = w.astype(jnp.float32)
  if not stored:
    return rounded(w, bits) - w
  rows = w.reshape(-1, w.shape[-1])
  # Some rows at a time: random bits take five times the memory of the result.
  found = jax.lax.map(
      lambda row: _two_errors(*row, bits),
      (jax.random.split(key, len(rows)), rows), batch_size=ROWS)
  return found.reshape(w.shape)


def noise_by_rows(
    key: Key[Array, ''], w: Shaped[np.ndarray, 'M N'], bits: int,
    stored: bool,
) -> Iterator[tuple[slice, Float32[np.ndarray, '_ N']]]:
  """`noise`, some rows at a time."""
  keys = jax.random.split(key, len(w))
  step = max(1, ENTRIES // w.shape[1])
  for start in range(0, len(w), step):
    rows = slice(start, start + step)
    yield rows, np.asarray(_noise_of_rows(
        keys[rows], np.asarray(w[rows], np.float32), bits, stored))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _noise_of_rows(
    keys: Key[Array, 'M'], w: Float[Array, 'M N'], bits: int, stored: bool,
) -> Float[Array, 'M N']:
  if not stored:
    return rounded(w, bits) - w
  return jax.vmap(lambda key, row: _two_errors(key, row, bits))(keys, w)


def _two_errors(
    key: Key[Array, ''], w: Float[Array, 'N'], bits: int) -> Float[Array, 'N']:
  # The power of two at or below |w|, and the step that follows it.
  words = jax.lax.bitcast_convert_type(w, jnp.uint32)
  power = jax.lax.bitcast_convert_type(
      words & jnp.uint32(0x7f800000), jnp.float32)
  if bits == 10:
    power = jnp.where(w == 0, 0, jnp.maximum(power, LEAST))
  step = power * 2.**-bits
  one, other = jax.random.uniform(key, (2, *w.shape), minval=-.5, maxval=.5)
  # As the sum is stored: noise below the last bit is none.
  return (w + step * (one + other)) - w
