"""Optimizers in a run: their state is saved, and a run goes on from it."""
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft import train
from tests import tiny


def bits(state):
  numbers = (x for x in jax.tree.leaves(state)
             if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key))
  return [np.asarray(x).tobytes() for x in numbers]


@pytest.mark.parametrize('name', ['adamw_8bit', 'adafactor'])
def test_a_run_goes_on_to_the_same_bits(tmp_path, name):
  config = tiny.sft_config(4)
  config.evals = {}
  config.optimizer = dict(name=name, learning_rate=3e-3)
  whole = train.run(config, tmp_path / 'whole')
  kinds = {x.dtype.name for x in jax.tree.leaves(whole.opt_state)}
  assert ('float8_e4m3fn' in kinds) == (name == 'adamw_8bit')
  shutil.copytree(tmp_path / 'whole', tmp_path / 'cut')
  shutil.rmtree(tmp_path / 'cut' / 'checkpoints' / '000004')
  again = train.run(config, tmp_path / 'cut')
  assert bits(again) == bits(whole)
