"""The critic beside every family, in both dtypes."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.adapters import value_head
from rlft.ops import trees
from tests.adapters import families
from tests.adapters.families import FAMILIES, TOKENS

OTHER = TOKENS.at[1, 3].set(11)  # one token exchanged


def critic_of(family):
  critic = value_head.make(families.params(family)['policy'])
  return {**critic, 'value_head': families.moved(critic['value_head'])}


@pytest.mark.parametrize('family', FAMILIES)
def test_values_are_the_head_on_the_state_before(family):
  """Worked out from the policy's own hidden states, of which it is a copy."""
  model, params = families.model(family), families.params(family)['policy']
  critic = critic_of(family)

  @jax.jit
  def read(critic, params):
    of = lambda tokens: value_head.values(model, critic, tokens)
    return of(TOKENS), of(OTHER), model.apply({'params': params}, TOKENS)[0]

  values, other, hidden = map(np.asarray, read(critic, params))
  kernel, bias = (np.asarray(critic['value_head'][k])
                  for k in ('kernel', 'bias'))
  want = (hidden @ kernel + bias)[:, :-1, 0]
  np.testing.assert_allclose(values[:, 1:], want, atol=1e-5)
  assert not values[:, 0].any()
  gap = np.abs(other - values)
  assert (gap[1, :4] < 1e-6).all() and (gap[1, 4:] > 1e-5).all()
  fresh = value_head.make(params)
  assert not np.asarray(read(fresh, params)[0]).any()


@pytest.mark.parametrize('family', FAMILIES)
def test_every_parameter_of_a_critic_gets_a_gradient_in_bfloat16(family):
  """And only those there are: no head that no value depends on."""
  model = families.model(family, 'bfloat16')
  critic = critic_of(family)
  values, slopes = jax.jit(jax.value_and_grad(
      lambda c: (value_head.values(model, c, TOKENS) ** 2).sum()))(critic)
  assert values.dtype == jnp.float32 and np.isfinite(values)
  assert 'head' not in critic['model']
  steepest = {p: np.abs(x).max() for p, x in trees.named(slopes).items()}
  # a key's bias moves all scores of a query alike, which softmax takes out
  silent = {p for p, x in steepest.items() if x < 1e-5}
  assert silent <= {'model/layers/attention/key/bias'}
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(slopes))


@pytest.mark.parametrize('family', FAMILIES)
def test_bfloat16_values_are_near_those_of_float32(family):
  critic = critic_of(family)
  exact, coarse = (
      np.asarray(jax.jit(value_head.values, static_argnums=0)(
          families.model(family, dtype), critic, TOKENS))
      for dtype in ('float32', 'bfloat16'))
  assert exact.dtype == coarse.dtype == np.float32
  assert 0 < np.abs(exact - coarse).max() < 0.05
