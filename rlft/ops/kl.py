"""KL(policy || reference), in nats per token.

The estimators read one sampled token x ~ policy per position. With
log r = ref_log_probs - log_probs, so r = reference(x) / policy(x):

  k1 = -log r         E[k1] = KL exactly; signed, high variance
  k2 = (log r)^2 / 2  E[k2] = KL + O(KL^1.5): biased; never negative
  k3 = r - 1 - log r  E[k3] = KL, as E[r] = 1; never negative

(Schulman, "Approximating KL divergence", 2020). The order of the arguments
is the direction. The other direction needs samples of the other distribution:
`k3(behaviour, policy)` on the behaviour's tokens is KL(behaviour || policy).

As a *loss*, what counts is the derivative of the term on fixed samples, and
that is not the derivative of the expectation. With s = grad log policy(x),
whose expectation is 0 (tokens sampled by the policy itself):

  grad k1 = s             expects 0: in a loss k1 is noise, no penalty at all
  grad k2 = -log r * s    expects grad KL(policy || reference)
  grad k3 = (1 - r) * s   expects grad KL(reference || policy), the other
                          direction; both agree to first order near r = 1

So: k1 or k3 in a reward or a metric, k2 or k3 in a loss. k3 and its gradient
grow as r: one token that the reference likes and the policy does not can
dominate a batch.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def k1(log_probs: Float[Array, '*S'], ref_log_probs: Float[Array, '*S']
       ) -> Float[Array, '*S']:
  """-log r: unbiased, signed, high variance."""
  return log_probs - ref_log_probs


def k2(log_probs: Float[Array, '*S'], ref_log_probs: Float[Array, '*S']
       ) -> Float[Array, '*S']:
  """Half the squared log-ratio: biased value, gradient of the true KL."""
  return 0.5 * jnp.square(log_probs - ref_log_probs)


def k3(log_probs: Float[Array, '*S'], ref_log_probs: Float[Array, '*S']
       ) -> Float[Array, '*S']:
  """r - 1 - log r: unbiased and never negative."""
  log_r = ref_log_probs - log_probs
  # expm1: near r = 1 the value is log_r^2 / 2, which exp(log_r) - 1 rounds off.
  return jnp.maximum(jnp.expm1(log_r) - log_r, 0.)


ESTIMATORS = {'k1': k1, 'k2': k2, 'k3': k3}


def estimator(name: str) -> Callable:
  """The estimator of that name; ValueError lists the known ones."""
  if name not in ESTIMATORS:
    raise ValueError(
        f'no KL estimator {name!r}; known: {", ".join(sorted(ESTIMATORS))}')
  return ESTIMATORS[name]


def exact(logits: Float[Array, '*S V'], ref_logits: Float[Array, '*S V']
          ) -> Float[Array, '*S']:
  """Token-level KL of two next-token distributions, over the vocabulary.

  No samples: needs both logits, so it is for chunks of tokens and for tests.
  A word that the policy excludes (logit -inf) adds nothing; one that only the
  reference excludes makes the KL infinite.
  """
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  log_q = jax.nn.log_softmax(ref_logits.astype(jnp.float32))
  possible = log_p > -jnp.inf
  log_ratio = jnp.where(possible, log_p, 0.) - jnp.where(possible, log_q, 0.)
  return (jnp.exp(log_p) * log_ratio).sum(-1)
