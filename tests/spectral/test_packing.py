"""Dealing matrices out: hand-computed cases, and a bound that is proved."""
import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np

from rlft.spectral import packing

SIZES = {'data': 2, 'fsdp': 3}


def stack(path, *shape, axes=None, dtype='float32'):
  return packing.Stack(path, shape, dtype, axes or ((),) * len(shape))


def loads(costs, home, devices):
  return np.bincount(home, weights=costs, minlength=devices)


def test_cost_is_that_of_the_longer_side_times_the_square_of_the_shorter():
  assert packing.cost(10, 3) == packing.cost(3, 10) == 90


def test_dealing_by_hand():
  # 6 and 5 first; 4 to 5; 3 to 6; both have 9, and 2 goes to the first.
  assert packing.deal([2, 3, 4, 5, 6], [0, 1, 2, 3, 4], 2) == [0, 0, 1, 1, 0]


def test_a_device_does_not_hoard_cheap_matrices():
  # One large matrix; the other device takes small ones up to two even shares.
  home = packing.deal([100.] + [1.] * 8, [0] + [1] * 8, 2)
  assert home[0] == 0 and home[1:].count(1) == 8
  home = packing.deal([100.] + [1.] * 8, [0] + [1] * 8, 4)
  assert max(home[1:].count(d) for d in range(4)) <= packing.SLACK * 2
  assert home[1:].count(0) == 0


@hypothesis.given(
    st.lists(st.integers(1, 20), min_size=1, max_size=7), st.integers(1, 3))
def test_the_longest_device_has_at_most_four_thirds_of_the_least(
    costs, devices):
  home = packing.deal(costs, range(len(costs)), devices)
  least = min(loads(costs, np.array(other), devices).max() for other in
              itertools.product(range(devices), repeat=len(costs)))
  assert loads(costs, np.array(home), devices).max() <= 4 / 3 * least


def test_a_bucket_is_of_one_shape_type_and_layout():
  cut = ((), ('fsdp',), ())
  stacks = [
      stack('a', 4, 6, 6), stack('b', 2, 6, 6), stack('c', 4, 6, 9),
      stack('d', 4, 6, 6, axes=cut), stack('e', 4, 6, 6, dtype='bfloat16'),
      stack('f', 9, 6), stack('g', 2, 3, 6, 6)]
  found = packing.pack(stacks, 6)
  assert [[s.path for s in b.stacks] for b in found] == [
      ['c'], ['f'], ['a', 'b', 'g'], ['d'], ['e']]
  assert [len(b.devices) for b in found] == [4, 1, 12, 4, 4]
  costs = [packing.cost(*b.shape) for b in found for _ in b.devices]
  home = [d for b in found for d in b.devices]
  load = loads(costs, home, 6)
  # 324 four times, once 324 (9 x 6), 216 twenty times: 5940 over 6 devices.
  assert load.sum() == 5940 and load.max() <= 990 + 216


def test_nothing_moves_when_every_device_holds_everything():
  bucket, = packing.pack([stack('a', 5, 4, 4)], 6)
  assert packing.exchanged(bucket, SIZES) == ()
  moves = packing.moves(bucket, SIZES)
  assert moves.count.tolist() == [1, 1, 1, 1, 1, 0]
  assert moves.send.shape == (6, 1, 1)
