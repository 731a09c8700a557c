"""Every test runs on the CPU, on eight devices, and draws the same numbers."""
import gc
import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Compiling is most of what tests do: these make it a third, here and in what
# they start. `XLA_FLAGS= make test` compiles as a run does.
os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0 '
                      '--xla_cpu_use_fusion_emitters=false')

import hypothesis
import jax
import pytest

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_num_cpu_devices', 8)

hypothesis.settings.register_profile(
    'repeatable', derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile('repeatable')


@pytest.fixture(autouse=True, scope='session')
def one_device():
  """A run in a test takes one of the eight devices, as on a laptop."""
  from rlft.ops import sharding
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sharding, 'devices', lambda: jax.devices()[:1])
    yield


@pytest.fixture(autouse=True, scope='module')
def small_heap():
  """A run collects garbage as it ends: not that of all tests before it."""
  gc.freeze()
