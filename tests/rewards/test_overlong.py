"""Soft overlong punishment, by hand."""
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.rewards import overlong


def test_by_hand_at_the_last_token_that_counts():
  """limit 6, margin 4: free up to 2 tokens, a quarter for each more."""
  lengths = [0, 1, 2, 3, 4, 6, 8]
  mask = jnp.arange(9)[None] < jnp.array(lengths)[:, None] + 1
  mask = mask.at[:, 0].set(False)  # a prompt
  got = overlong.penalise(
      jnp.ones(mask.shape), mask, limit=6, margin=4, penalty=2.) - 1
  np.testing.assert_allclose(
      got.sum(1), [0., 0., 0., -0.5, -1., -2., -2.], atol=1e-6)
  for row, length in zip(np.asarray(got), lengths, strict=True):
    assert not np.delete(row, length).any()


def test_tokens_between_turns_are_no_length_and_pay_nothing():
  mask = jnp.array([[True, True, False, False, True, False]])
  got = overlong.penalise(jnp.zeros((1, 6)), mask, limit=4, margin=2)
  np.testing.assert_allclose(got, [[0., 0., 0., 0., -0.5, 0.]])


@pytest.mark.parametrize('limit, margin', [(4, 0), (4, -1), (4, 5)])
def test_a_margin_that_makes_no_sense_is_refused(limit, margin):
  with pytest.raises(ValueError, match=f'the margin {margin} must be above 0'):
    overlong.penalise(jnp.zeros((1, 2)), jnp.ones((1, 2), bool), limit=limit,
                      margin=margin)
