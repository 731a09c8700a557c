"""One of two processes of four devices: draws its rows, and no others.

python -m tests.multi.slices FILE; the batches are those that a process alone
makes of FILE, which it looks at itself.
"""
import sys

import jax
import numpy as np

from rlft.ops import dealing, sharding
from rlft.training import multihost
from tests.experience import test_conversations as data
from tests.experience import test_slices

ROWS, SLICES = 16, 4
MESHES = {  # the slices of each process
    (8, 1, 1): ([0, 1], [2, 3]), (2, 2, 2): ([0, 1], [2, 3]),
    (1, 8, 1): ([0, 1], [2, 3]), (1, 1, 8): ([0, 1, 2, 3],) * 2}


def main(path: str) -> None:
  multihost.join()
  made = lambda drawn, **options: test_slices.watched(
      path, drawn, **dict(rows=ROWS, slices=SLICES) | options)
  want = list(data.batches(made([]), 3))
  for sizes, slices in MESHES.items():
    drawn, mine = [], slices[jax.process_index()]
    with sharding.over(sharding.make(**dict(
        zip(sharding.AXES, sizes, strict=True)))):
      assert dealing.held(ROWS) == [
          row for row in range(ROWS) if row // (ROWS // SLICES) in mine]
      for (batch, said, state), (whole, *told) in zip(
          data.batches(made(drawn), 3), want, strict=True):
        assert [said, state] == told
        same(batch, whole)
        same(jax.jit(lambda x: sharding.rows(x, 'a batch'))(batch), whole)
        multihost.agree({'data': state})
    assert len(drawn) == sum(state['next'][g] + 1 for g in mine), sizes
  refused(made([], rows=12))
  print('the rows are those of one process')


def same(batch, whole) -> None:
  """The rows that are here, as they lie on devices."""
  for x, other in zip(batch, whole, strict=True):
    cut = sharding.spec(('rows', None), other.shape)
    assert x.shape == other.shape and x.sharding.spec == cut
    for shard in x.addressable_shards:
      np.testing.assert_array_equal(shard.data, other[shard.index])


def refused(made) -> None:
  """Rows that do not split are so before anything is compiled."""
  with sharding.over(sharding.make()):
    _, batch, _ = made.next(made.init(), None, {}, None)
    try:
      jax.eval_shape(lambda x: sharding.rows(x, 'a batch'), batch)
    except ValueError as error:
      assert '12 rows of a batch do not split over 8 devices' in str(error)
    else:
      raise AssertionError('12 rows were taken')


if __name__ == '__main__':
  main(sys.argv[1])
