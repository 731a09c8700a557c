"""Truncation keeps what the warpers of transformers keep."""
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.decoding import truncated

WHY = 'torch and transformers are not installed: warpers are not compared'
torch = pytest.importorskip('torch', reason=WHY)
warpers = pytest.importorskip(
    'transformers.generation.logits_process', reason=WHY)


@pytest.mark.parametrize('top_k, top_p', [
    (20, 1.0), (0, 0.8), (20, 0.8), (50, 0.9), (1, 0.5), (0, 0.05),
    (5000, 0.95)])
@pytest.mark.parametrize('scale', [0.5, 2.0, 8.0])
def test_kept_tokens_are_those_of_the_warpers(top_k, top_p, scale):
  """1000 rows of random logits (no ties), over 3000 tokens."""
  rng = np.random.default_rng(0)
  logits = (scale * rng.normal(size=(1000, 3000))).astype(np.float32)
  want = torch.tensor(logits)
  if top_k:
    want = warpers.TopKLogitsWarper(top_k)(None, want)
  if top_p < 1:
    want = warpers.TopPLogitsWarper(top_p)(None, want)
  got = np.asarray(
      truncated.rule(jnp.asarray(logits), top_k=top_k, top_p=top_p))
  apart = (got > -np.inf) != np.isfinite(want.numpy())
  # sums in another order may differ on the token that crosses top_p
  assert apart.sum(1).max() <= 1 and apart.any(1).mean() <= 0.01
  same = ~apart
  np.testing.assert_array_equal(got[same], want.numpy()[same])
