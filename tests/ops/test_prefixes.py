"""Which prompts are computed, and whose they are."""
import jax
import numpy as np
import pytest

from rlft.ops import prefixes, sharding


@pytest.mark.parametrize('different, rows, room', [
    ([32], 256, 32), ([31], 256, 32), ([33], 256, 64), ([129], 256, 256),
    ([1], 256, 16), ([2], 6, 3), ([3], 6, 3), ([4], 6, 6), ([1], 1, 1),
    ([1], 7, 7), ([0], 8, 1), ([3, 9], 64, 32), ([1, 1, 1, 5], 32, 32)])
def test_room_is_halved_as_long_as_all_parts_fit(different, rows, room):
  assert prefixes.room(different, rows) == room


def test_what_is_shared_is_there_once_in_every_part():
  a, b, c = [1, 5], [1, 6, 7], [1, 8]
  prompts, of = prefixes.shared([a, a, b, a, b, b, c], 8, 1)
  assert prompts == [a, b, c, []]
  assert of.tolist() == [0, 0, 1, 0, 1, 1, 2, -1]
  prompts, of = prefixes.shared([a, a, b, a, b, b, b], 8, 2)
  assert prompts == [a, b, b, []]
  assert of.tolist() == [0, 0, 1, 0, 0, 0, 0, -1]


def test_what_is_not_shared_stays_as_it_is():
  contexts = [[1, 5], [1, 5], [1, 6], [1, 7]]
  assert prefixes.shared(contexts, 4, 1) == (contexts, None)
  assert prefixes.shared(contexts[:3], 3, 1) == (contexts[:3], None)
  assert prefixes.shared(contexts[1:], 4, 1) == ([*contexts[1:], []], None)


def test_a_batch_that_is_not_full_is_no_program_of_its_own():
  contexts = [[1, 5], [1, 5], [1, 6]]
  assert prefixes.shared(contexts, 8, 1) == ([*contexts, *[[]] * 5], None)
  assert prefixes.shared(contexts[2:], 2, 1) == ([[1, 6], []], None)


def test_there_is_a_part_for_each_device_if_all_split():
  assert prefixes.parts(7, 3) == 1
  with sharding.over(sharding.of(jax.devices()[:4], data=2, fsdp=2, tensor=1)):
    assert [prefixes.parts(*rows) for rows in ((8,), (8, 4), (8, 6))] == [
        4, 4, 1]
    assert np.prod(list(sharding.shape().values())) == 4
