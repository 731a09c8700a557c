"""Reading holds little beside the parameters, whatever dtype they come in."""
import json
import pathlib
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from tests.parity import fixtures

STATUS = pathlib.Path('/proc/self/status')
# The peak is that of this process's life: a first, small model takes what
# imports and compilers need, and the peak is set back.
CHILD = '''
import pathlib, sys, jax
from tests.parity import ours
def kilobytes(field):
  text = pathlib.Path('/proc/self/status').read_text()
  return int(text.split(field + ':')[1].split()[0])
ours.load(pathlib.Path(sys.argv[1]), 63)
pathlib.Path('/proc/self/clear_refs').write_text('5')
before = kilobytes('VmRSS')
_, params = ours.load(pathlib.Path(sys.argv[2]), 63)
jax.block_until_ready(params)
size = sum(x.nbytes for x in jax.tree.leaves(params))
print((kilobytes('VmHWM') - before) * 1024 - size)
'''


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.is_file(), reason='needs /proc')
@pytest.mark.parametrize('dtype', [np.float32, ml_dtypes.bfloat16])
def test_memory_beyond_the_parameters_is_small(dtype, tmp_path):
  """Less than twice the largest tensor as it is stored."""
  small = fixtures.ROOT / 'llama3_factor_8'
  config = json.loads((small / 'config.json').read_text())
  config['vocab_size'] = 2**20
  (tmp_path / 'config.json').write_text(json.dumps(config))
  tensors = {k: x.astype(dtype) for k, x in safetensors.numpy.load_file(
      small / 'model.safetensors').items()}
  largest = np.ones((2**20, config['hidden_size']), dtype)
  for name in ('model.embed_tokens.weight', 'lm_head.weight'):
    tensors[name] = largest
  safetensors.numpy.save_file(tensors, tmp_path / 'model.safetensors')
  done = subprocess.run(
      [sys.executable, '-c', CHILD, str(small), str(tmp_path)],
      capture_output=True, text=True, check=True)
  assert int(done.stdout) < 2 * largest.nbytes
