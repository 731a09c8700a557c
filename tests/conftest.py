"""Every test runs on the CPU, on eight devices, and draws the same numbers."""
import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import hypothesis
import jax

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_num_cpu_devices', 8)

hypothesis.settings.register_profile(
    'repeatable', derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile('repeatable')
