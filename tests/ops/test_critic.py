"""The critic's clipped loss and its explained variance, by hand."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.ops import critic


@pytest.mark.parametrize('value, old, target, want, slope', [
    # within the clip: the plain half square
    (1.1, 1., 2., 0.5 * 0.9 ** 2, -0.9),
    # past the clip towards the return: as if held at 1.2, no gradient
    (1.5, 1., 2., 0.5 * 0.8 ** 2, 0.),
    # past the clip away from the return: the plain half square
    (0.5, 1., 2., 0.5 * 1.5 ** 2, -1.5),
])
def test_clip_by_hand(value, old, target, want, slope):
  def loss(v):
    return critic.half_square(
        v, jnp.array([old]), jnp.array([target]), clip=0.2).sum()
  got = jax.value_and_grad(loss)(jnp.array([value]))
  np.testing.assert_allclose(got[0], want, rtol=1e-5)
  np.testing.assert_allclose(got[1], [slope], rtol=1e-5)


def test_no_clip_is_the_half_square():
  got = critic.half_square(
      jnp.array([1.5]), jnp.array([1.]), jnp.array([2.]), clip=None)
  np.testing.assert_allclose(got, [0.125])


def test_explained_variance():
  returns = jnp.array([[1., 2., 3., jnp.nan]])
  mask = jnp.array([[True, True, True, False]])

  def explained(*values):
    return critic.explained_variance(
        jnp.array([[*values, jnp.nan]]), returns, mask)

  np.testing.assert_allclose(explained(1., 2., 3.), 1.)
  np.testing.assert_allclose(explained(6., 7., 8.), 1.)  # an offset is free
  np.testing.assert_allclose(explained(5., 5., 5.), 0., atol=1e-6)
  np.testing.assert_allclose(explained(3., 2., 1.), -3., rtol=1e-5)
  # returns - values = 0.5, 1, 1.5: a quarter of the variance is left
  np.testing.assert_allclose(explained(0.5, 1., 1.5), 0.75, rtol=1e-5)


def test_constant_returns_explain_nothing():
  ones = jnp.ones((1, 3))
  got = critic.explained_variance(
      jnp.array([[1., 2., 3.]]), ones, jnp.ones((1, 3), bool))
  assert got == 0.
