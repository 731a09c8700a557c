"""A run on several devices is the run on one."""
import jax
import numpy as np
import pytest

from rlft import train
from rlft.ops import sharding, trees
from tests import tiny


@pytest.mark.parametrize('make', [tiny.sft_config, tiny.rl_config])
def test_a_run_on_two_devices_is_the_run_on_one(monkeypatch, tmp_path, make):
  ends = []
  for count in (1, 2):
    monkeypatch.setattr(
        sharding, 'devices', lambda n=count: jax.devices()[:n])
    ends.append(train.run(make(2), tmp_path / str(count)))
  one, two = (jax.device_get(state.params) for state in ends)
  trees.same(one, two)
  assert all(len(x.sharding.device_set) == 2
             for x in jax.tree.leaves(ends[1].params))
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
      one, two)
