"""Maximum likelihood, by hand."""
import jax
import jax.numpy as jnp
import numpy as np

from rlft.objectives import sft
from rlft.types import Batch, Outputs


def outputs_of(log_probs):
  zeros = jnp.zeros_like(log_probs)
  return Outputs(log_probs, zeros, zeros, zeros[..., None])


def test_token_mean_by_hand():
  """Five tokens, not two rows: 1 + 2 + 3 + 4 + 10 over 5."""
  log_probs = -jnp.array([[1., 2., 3., 4.], [7., 7., 7., 10.]])
  mask = jnp.array([[True] * 4, [False, False, False, True]])
  nll, metrics = sft.loss(outputs_of(log_probs), Batch(
      jnp.zeros((2, 4), int), mask))
  np.testing.assert_allclose(nll, 4.)
  assert metrics['nll'] == nll
  assert metrics['completion_tokens'] == 5


def test_gradient_is_softmax_less_one_hot():
  tokens = jnp.array([[2, 0, 1]])
  mask = jnp.array([[False, True, True]])
  logits = jax.random.normal(jax.random.key(0), (1, 3, 4))

  def loss(logits):
    log_p = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_p, tokens[..., None], -1)[..., 0]
    return sft.loss(outputs_of(chosen), Batch(tokens, mask))[0]

  want = (jax.nn.softmax(logits) - jax.nn.one_hot(tokens, 4)) / 2
  want = want * mask[..., None]
  np.testing.assert_allclose(jax.grad(loss)(logits), want, atol=1e-6)
