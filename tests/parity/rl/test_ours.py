"""Our side of the comparison fits the types of today, without any peer."""
import jax

from tests.parity.rl import batches, ours


def test_everything_that_peers_are_asked_can_be_computed_of_a_batch():
  drawn = batches.draw(0, 3)
  found = jax.eval_shape(ours._of_all, drawn)
  assert {'gae', 'kl/k3', 'grpo/token_mean/log_probs', 'ppo/values',
          'one_zero_reinforce'} <= set(found)
  assert {x.shape[0] for x in found.values()} == {3}
