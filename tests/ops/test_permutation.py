"""Every thing once an epoch, in another order each time."""
from hypothesis import given
from hypothesis import strategies as st

from rlft.ops import permutation

seeds = st.integers(-2**31, 2**31)


@given(st.integers(1, 300), seeds, st.integers(0, 10**9))
def test_an_epoch_has_every_thing_once(count, seed, epoch):
  start = epoch * count
  drawn = [permutation.at(start + i, count, seed) for i in range(count)]
  assert sorted(drawn) == list(range(count))


@given(seeds)
def test_no_two_epochs_and_no_two_seeds_have_one_order(seed):
  orders = {tuple(permutation.order(50, s, epoch))
            for s in (seed, seed + 1) for epoch in range(3)}
  assert len(orders) == 6


def test_every_thing_comes_first_as_often():
  firsts = [permutation.at(5 * epoch, 5, 0) for epoch in range(2000)]
  assert all(340 < firsts.count(i) < 460 for i in range(5))


def test_an_order_stays_what_it_is():
  """Whatever numpy is installed: runs that were begun go on."""
  assert permutation.order(8, 1, 2).tolist() == [5, 6, 3, 2, 1, 0, 4, 7]
