"""The clipped surrogate: both sides of the clip, the guard, and neither."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.ops import surrogate


def of(ratio, gain, low=0.2, high=0.3, guard=None):
  """(value, slope to the log-ratio, whether the clip decided) of one token."""
  def value(log_ratio):
    return surrogate.clipped(log_ratio, jnp.full((1, 1), gain), low=low,
                             high=high, guard=guard).sum()
  log_ratio = jnp.full((1, 1), jnp.log(ratio))
  told, slope = jax.value_and_grad(value)(log_ratio)
  decided = surrogate.decided(
      log_ratio, jnp.full((1, 1), gain), low=low, high=high)
  return float(told), float(slope[0, 0]), bool(decided[0, 0])


@pytest.mark.parametrize('ratio, gain, value, slope', [
    (1.25, 1., 1.25, 1.25),  # within the wider side above
    (1.35, 1., 1.3, 0.),
    (0.75, 1., 0.75, 0.75),  # the losing side is never clipped
    (0.85, -1., -0.85, -0.85),
    (0.75, -1., -0.8, 0.),
    (9.0, -1., -9., -9.),
])
def test_the_sides_of_the_clip_are_apart(ratio, gain, value, slope):
  told, found, decided = of(ratio, gain)
  np.testing.assert_allclose([told, found], [value, slope], rtol=1e-5)
  assert decided == (slope == 0.)


def test_none_leaves_a_side_open():
  for got, want in ((of(9., 2., high=None), (18., 18., False)),
                    (of(.1, -2., low=None), (-.2, -.2, False))):
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_guard_is_the_dual_clip():
  np.testing.assert_allclose(of(9., -2., guard=3.)[:2], (-6., 0.), rtol=1e-5)
  np.testing.assert_allclose(of(2., -2., guard=3.)[:2], (-4., -4.), rtol=1e-5)
  # where A > 0 the clip has decided before
  np.testing.assert_allclose(of(9., 2., guard=3.)[:2], (2.6, 0.), rtol=1e-5)
  # without a clip it bounds both
  np.testing.assert_allclose(
      of(9., 2., low=None, high=None, guard=3.)[:2], (6., 0.), rtol=1e-5)


@pytest.mark.parametrize('high, guard', [(0.3, 1.3), (None, 1.)])
def test_guard_inside_the_clip_is_refused(high, guard):
  with pytest.raises(ValueError, match=f'ratio_guard={guard} must be above'):
    of(1., 1., high=high, guard=guard)
