"""Sums over turns, by hand."""
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies

from rlft.ops import turns

NAN = float('nan')
# Two turns with feedback between, the second interrupted; a row whose first
# turn is not 0; a row without any.
IDS = jnp.array([[-1, 0, 0, -1, 1, -1, 1],
                 [2, -1, 3, 3, -1, -1, -1],
                 [-1, -1, -1, -1, -1, -1, -1]])
X = jnp.array([[NAN, 1., 2., NAN, 4., NAN, 8.],
               [3., NAN, 5., 7., NAN, NAN, NAN],
               [NAN] * 7])
STARTS = [[0, 1, 0, 0, 1, 0, 0], [1, 0, 1, 0, 0, 0, 0], [0] * 7]


def test_ids_are_those_of_the_mask():
  ids = jnp.array([[5, 0, 0, 1]])
  mask = jnp.array([[False, True, False, True]])
  assert turns.ids_of(ids, mask).tolist() == [[-1, 0, -1, 1]]


def test_starts_by_hand():
  assert turns.starts(IDS).astype(int).tolist() == STARTS


def test_total_by_hand():
  assert turns.total(X, IDS).tolist() == [
      [0., 3., 0., 0., 12., 0., 0.], [3., 0., 12., 0., 0., 0., 0.], [0.] * 7]


def test_spread_by_hand():
  y = jnp.array([[NAN, 10., NAN, NAN, 20., NAN, NAN],
                 [30., NAN, 40., NAN, NAN, NAN, NAN], [NAN] * 7])
  assert turns.spread(y, IDS).tolist() == [
      [0., 10., 10., 0., 20., 0., 20.], [30., 0., 40., 40., 0., 0., 0.],
      [0.] * 7]


def test_gradients_stay_on_the_tokens_of_the_turn():
  grad = jax.grad(lambda x: turns.total(x, IDS)[0, 4])(X)
  assert grad.tolist() == [[0., 0., 0., 0., 1., 0., 1.], [0.] * 7, [0.] * 7]


TOTAL, BEGIN = jax.jit(turns.total), jax.jit(turns.starts)


@hypothesis.given(strategies.lists(
    strategies.tuples(strategies.integers(0, 2), strategies.booleans()),
    min_size=1, max_size=40))
def test_total_is_that_of_a_loop(steps):
  """Turns of any length, apart, touching or interrupted."""
  turn, ids = 0, []
  for step, counts in steps:
    turn += step
    ids.append(turn if counts else -1)
  ids += [-1] * (40 - len(ids))  # one shape: one program
  x = np.arange(1., len(ids) + 1)
  want = np.zeros(len(ids))
  for one in {*ids} - {-1}:
    want[ids.index(one)] = x[np.array(ids) == one].sum()
  got = TOTAL(jnp.asarray(x)[None], jnp.array([ids]))
  assert got[0].tolist() == want.tolist()
  assert BEGIN(jnp.array([ids]))[0].tolist() == (want > 0).tolist()


def test_no_array_of_tokens_by_tokens_is_made():
  """64 x 512 x 512 floats would be 64 MiB."""
  x = jax.ShapeDtypeStruct((64, 512), jnp.float32)
  ids = jax.ShapeDtypeStruct((64, 512), jnp.int32)
  square = lambda x, ids: jnp.square(turns.total(x, ids)).sum()
  made = jax.jit(jax.grad(square)).lower(x, ids).compile()
  assert made.memory_analysis().temp_size_in_bytes < 8 * 2**20
