"""Rows over several devices: the same numbers, and errors that say what to do.
"""
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft import train
from rlft.ops import dealing, sharding
from rlft.training import seal
from tests import tiny


def over(monkeypatch, count):
  monkeypatch.setattr(sharding, 'devices', lambda: jax.devices()[:count])


def test_a_single_device_has_no_mesh_and_changes_nothing(monkeypatch):
  over(monkeypatch, 1)
  assert sharding.make(data=-1) is None and sharding.make(data=1) is None
  x = jnp.arange(3.)
  with sharding.over(None):
    assert sharding.rows(x, 'a batch') is x and sharding.everywhere(x) is x


@pytest.mark.parametrize('data, devices', [(-1, 4), (2, 2), (4, 4)])
def test_rows_are_dealt_out_and_gathered(monkeypatch, data, devices):
  over(monkeypatch, 4)
  mesh = sharding.make(data=data)
  assert mesh.size == devices
  with sharding.over(mesh):
    assert sharding.size() == devices
    dealt = jax.jit(lambda x: sharding.rows(2 * x, 'a batch'))(jnp.arange(8.))
    shards = [s.data.shape for s in dealt.addressable_shards]
    assert shards == [(8 // devices,)] * devices
    back = jax.jit(sharding.everywhere)(dealt)
    assert back.is_fully_replicated
    np.testing.assert_array_equal(back, 2 * np.arange(8.))


@pytest.mark.parametrize('sizes, held', [
    ((4, 1, 1), 2), ((1, 4, 1), 2), ((2, 1, 2), 4), ((1, 1, 4), 8)])
def test_rows_of_the_host_are_dealt_out(monkeypatch, sizes, held):
  over(monkeypatch, 4)
  rows = {'tokens': np.arange(24).reshape(8, 3), 'ids': np.arange(8)}
  assert dealing.dealt(rows) is rows and dealing.held(8) == list(range(8))
  with sharding.over(sharding.make(**dict(
      zip(sharding.AXES, sizes, strict=True)))):
    dealt = dealing.dealt(rows)
    assert dealing.held(8) == list(range(8))  # of one process, all are
    for name, x in dealt.items():
      assert [s.data.shape[0] for s in x.addressable_shards] == [held] * 4
      np.testing.assert_array_equal(x, rows[name])
    cut = jax.jit(lambda x: sharding.rows(x, 'a batch'))(rows['tokens'])
    assert dealt['tokens'].sharding.is_equivalent_to(cut.sharding, 2)
    numbers = np.arange(3)
    assert dealing.largest(numbers) is numbers


def test_of_numbers_of_several_processes_few_lengths_are_sent(monkeypatch):
  """And at each place the largest comes back, however long they are."""
  sent = []

  def gather(x):
    sent.append(x.shape)
    return np.stack([x, np.roll(x, 1, axis=0)])

  monkeypatch.setattr(dealing.jax, 'process_count', lambda: 2)
  monkeypatch.setattr(dealing.multihost_utils, 'process_allgather', gather)
  over(monkeypatch, 4)
  with sharding.over(sharding.make()):
    for count in (1, 5, 7, 8, 9):
      numbers = np.arange(2 * count).reshape(count, 2)
      found = dealing.largest(numbers)
      other = np.concatenate([numbers[-1:] if count in (1, 8) else
                              np.zeros((1, 2), int), numbers[:-1]])
      np.testing.assert_array_equal(found, np.maximum(numbers, other))
  assert sent == [(1, 2), (8, 2), (8, 2), (8, 2), (16, 2)]


@pytest.mark.parametrize('data', [0, 5, -2])
def test_devices_that_there_are_not_are_refused(monkeypatch, data):
  over(monkeypatch, 4)
  with pytest.raises(ValueError, match='there are 4 devices'):
    sharding.make(data=data)


def test_rows_that_do_not_split_are_refused_where_it_matters(monkeypatch):
  over(monkeypatch, 4)
  with sharding.over(sharding.make()):
    with pytest.raises(ValueError, match='6 rows of a batch do not split'):
      jax.jit(lambda x: sharding.rows(x, 'a batch'))(jnp.arange(6.))
    kept = jax.jit(lambda x: sharding.rows(x + 1))(jnp.arange(6.))
    assert kept.is_fully_replicated and dealing.held(6) == list(range(6))
    dealt = dealing.dealt(np.arange(6))
    assert dealt.is_fully_replicated
    with pytest.raises(ValueError, match='6 rows of a batch do not split'):
      jax.eval_shape(lambda x: sharding.rows(x, 'a batch'), dealt)


@pytest.mark.slow
@pytest.mark.parametrize('make', [tiny.sft_config, tiny.rl_config])
def test_rows_that_do_not_split_are_refused_before_anything_is_saved(
    monkeypatch, tmp_path, make):
  over(monkeypatch, 3)
  with pytest.raises(ValueError, match='do not split over 3 devices'):
    train.run(make(2), tmp_path)
  assert not seal.steps(tmp_path)


def test_a_mesh_takes_no_other_key(tmp_path):
  config = tiny.sft_config(2)
  config.mesh = dict(data=1, pipeline=2)
  with pytest.raises(ValueError, match=r'config.mesh takes no pipeline'):
    train.run(config, tmp_path)


def test_parameters_are_gathered_but_for_what_tensor_cuts():
  mesh = sharding.of(jax.devices(), data=2, fsdp=2, tensor=2)
  with sharding.over(mesh):
    params = sharding.placed({'up': {'kernel': np.ones((3, 8, 8))},
                              'scale': np.ones(8)})
    assert params['up']['kernel'].sharding.spec == jax.P(
        None, 'fsdp', 'tensor')
    found = jax.jit(sharding.gathered)(params)
  assert found['up']['kernel'].sharding.shard_shape((3, 8, 8)) == (3, 8, 4)
  assert found['scale'].is_fully_replicated


def test_an_axis_that_is_no_product_of_a_networks_sides():
  """32 of a torus of 4 x 4 x 4: laid across parts of its sides."""
  chips = [types.SimpleNamespace(
      id=i, process_index=i // 4, platform='tpu', device_kind='TPU v5',
      coords=(i // 16, i // 4 % 4, i % 4), core_on_chip=0) for i in range(64)]
  for sizes in ((2, 32, 1), (4, 16, 1), (1, 16, 4)):
    laid = sharding._along(chips, sizes)
    assert laid.shape == sizes
    assert sorted(chip.id for chip in laid.flat) == list(range(64))


def test_rows_that_do_not_split_are_refused_by_their_number():
  assert sharding.split(6, 'a sample') == 6  # there is one device
  with sharding.over(sharding.of(jax.devices()[:4], data=4, fsdp=1, tensor=1)):
    assert [sharding.split(n, 'a sample') for n in (0, 8)] == [0, 8]
    with pytest.raises(ValueError, match='6 rows of a sample do not split ove'):
      sharding.split(6, 'a sample')
    with pytest.raises(ValueError, match='6 rows of a batch do not'):
      jax.eval_shape(lambda x: sharding.rows(x, 'a batch'), (
          np.zeros(4), np.zeros(6)))
