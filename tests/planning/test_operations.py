"""Operations of programs whose products can be counted by hand."""
import jax
import jax.numpy as jnp
import pytest

from rlft.planning import operations

X, W = jnp.ones((8, 16)), jnp.ones((16, 16))
ONE = 2 * 8 * 16 * 16


def counted(function, *arguments):
  return operations.products(
      jax.jit(function).lower(*arguments).compiler_ir())


def test_a_product_is_counted_once():
  assert counted(lambda x, w: x @ w, X, W) == (ONE, ONE)


def test_a_batch_of_products_and_a_contraction_over_two_axes():
  x, w = jnp.ones((3, 4, 5)), jnp.ones((3, 5, 6))
  assert counted(jnp.matmul, x, w).total == 2 * 3 * 4 * 5 * 6
  both = lambda x, y: jnp.einsum('abc,abd->cd', x, y)
  assert counted(both, x, jnp.ones((3, 4, 7))).total == 2 * 3 * 4 * 5 * 7


def test_loops_are_multiplied_out_one_in_another():
  def inner(x, w):
    return jax.lax.fori_loop(0, 3, lambda _, x: x @ w, x)

  def outer(x, w):
    return jax.lax.scan(lambda x, _: (inner(x, w), None), x, None, 5)[0]

  assert counted(outer, X, W) == (15 * ONE, ONE)


def test_a_loop_that_may_end_early_is_counted_to_its_bound():
  def run(x, w):
    return jax.lax.while_loop(
        lambda c: (c[0] < 11) & jnp.any(c[1] > 0),
        lambda c: (c[0] + 1, c[1] @ w), (0, x))

  assert counted(run, X, W).total == 11 * ONE


@pytest.mark.parametrize('remat, times', [(False, 3), (True, 4)])
def test_what_is_made_again_counts_again(remat, times):
  def body(x, w):
    return jnp.tanh(x @ w)

  def loss(x, w):
    made = jax.checkpoint(body) if remat else body
    return jnp.sum(jax.lax.scan(
        lambda x, _: (made(x, w), None), x, None, length=7)[0])

  assert counted(jax.grad(loss, argnums=(0, 1)), X, W).total == 7 * times * ONE
