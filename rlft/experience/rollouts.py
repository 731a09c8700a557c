"""Rollouts: the policy plays, the environment pays, credit is assigned."""
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rlft import episodes, ledger, policy
from rlft.adapters import lora
from rlft.envs import Environment
from rlft.experience import health
from rlft.experience.demonstrations import generator
from rlft.ops import alarms, sharding, spans
from rlft.rewards import kl as kl_reward
from rlft.tokenizer import Tokenizer
from rlft.types import Experience, Rollout, Source

BINS, LIMIT = 20, 4.0


def make(
    env: Environment, *, tokenizer: Tokenizer, model: Any, advantages: Callable,
    ref_params: PyTree, prompts: int, group: int = 1,
    tries: int = 1, temperature: float = 1.0, max_new_tokens: int = 20,
    length: int = 36, reward_scale: float = 1.0, skip_tokens: int = 0,
    decoding: tuple = (), kl_target: float | None = None,
    kl_horizon: int = 10000,
) -> Source:
  """Experience of `prompts` tasks x `group` samples, in rows of `length`.

  Behaviour log-probs are the trainer's own, at the sampling temperature, so a
  first ratio is exactly 1; how far the sampler's are from them is the metric
  `sampler_gap` (largest absolute difference, nats). Under a rule (`decoding`:
  its name and settings as pairs) they are still those of the full softmax, and
  `decoding_kl` tells how far that is from what was drawn from. Rewards are
  multiplied by `reward_scale` before anything is learned from them; the metrics
  are not. Only an objective of whole turns reads the weights: those of the
  environment's spans, and 0 for the first `skip_tokens` tokens of a turn.

  With `kl_target`, in nats per completion, `advantages.kl_reward_coef` is only
  where the coefficient of the KL in the reward begins: it follows the KL of the
  rollouts (`rewards/kl.py:adapted`), and is the state of this source.
  """
  if temperature <= 0:
    raise ValueError(
        f'rollouts at temperature {temperature} explore nothing: raise it')
  if skip_tokens < 0:
    raise ValueError(f'experience.skip_tokens is {skip_tokens}: it is a number '
                     'of tokens, 0 or more')
  rows = prompts * group
  start = 0 if kl_target is None else coefficient(
      advantages, kl_target, kl_horizon)
  complete = episodes.completer(
      model, pad=tokenizer.pad, stops=tokenizer.stops, rows=rows,
      max_new_tokens=max_new_tokens, temperature=temperature,
      decoding=decoding)
  score = scorer(model, temperature)

  @jax.jit
  def assign(rollout, state):
    cost = {} if kl_target is None else {'kl_reward_coef': state}
    zero = lambda x: jnp.where(rollout.mask, x, 0.0)
    return advantages(rollout._replace(
        rewards=rollout.rewards * reward_scale,
        log_probs=zero(rollout.log_probs), values=zero(rollout.values),
        ref_log_probs=zero(rollout.ref_log_probs)), **cost)

  def next_batch(state, params, metrics, key):
    del metrics
    clock, rng = ledger.Clock(), generator(key)
    tasks = [env.sample(rng) for _ in range(prompts)]
    played = episodes.play(
        env.respond, [t for t in tasks for _ in range(group)], complete,
        lora.merge(params), tokenizer, key, tries=tries, clock=clock)
    weights = [weigh(e, env.spans, tokenizer.decode, skip_tokens)
               for e in played]
    clock.lap('reward')
    arrays, sampled = to_arrays(played, weights, tokenizer.pad, length)
    log_p, ref_log_p, values = score(params, ref_params, arrays['tokens'])
    experience = assign(Rollout(
        **arrays, log_probs=log_p, ref_log_probs=ref_log_p, values=values,
        prompt_ids=np.repeat(np.arange(prompts, dtype=np.int32), group)), state)
    measured = measure(played, experience, sampled) | health.measure(
        played, group=group, rows=rows, stops=tokenizer.stops)
    if decoding:
      measured['decoding_kl'] = decoding_kl(played)
    if kl_target is not None:
      measured['kl_reward_coef'] = state
      nats = measured['kl_k1'] * measured['completion_tokens']
      state = kl_reward.adapted(
          state, nats, target=kl_target, horizon=kl_horizon, rows=rows)
    clock.lap('log_prob')
    return state, experience, measured | clock.flush()

  return Source(lambda: start, next_batch)


def coefficient(advantages: Callable, target: float, horizon: int) -> float:
  """What a nat costs to begin with; ValueError where that cannot follow."""
  known = inspect.signature(advantages).parameters.get('kl_reward_coef')
  if known is None:
    raise ValueError('experience.kl_target: this objective has no KL in its '
                     'rewards; set it to None')
  if not (known.default > 0 and target > 0 and horizon > 0):
    raise ValueError(
        f'experience.kl_target is {target}, kl_horizon {horizon} and '
        f'advantages.kl_reward_coef {known.default}: all must be above 0')
  return float(known.default)


@functools.lru_cache  # one compilation for all runs of a study
def scorer(model: Any, temperature: float) -> Callable:
  """score(params, ref_params, tokens) -> log-probs of both, and values."""
  forward = functools.partial(policy.forward, model, temperature=temperature)

  @jax.jit
  def score(params, ref_params, tokens):
    tokens = sharding.rows(tokens, 'a rollout')
    out = forward(params, tokens)
    ref = forward({'policy': ref_params['policy']}, tokens)
    return sharding.everywhere((out.log_probs, ref.log_probs, out.values))

  return score


def weigh(
    episode: episodes.Episode, find: Callable | None, decode: Callable,
    skip: int,
) -> list[float]:
  """What each token weighs in its turn's log-prob; 0 off the mask.

  `find` is the environment's `spans`; without one every token weighs 1.
  """
  weighed = np.zeros(len(episode.tokens))
  of = np.array(episode.turn_ids)
  for turn, completion in enumerate(episode.completions):
    places = np.flatnonzero(of == turn)
    found = find(episode.task, completion) if find else ()
    weighed[places] = spans.weights(
        [episode.tokens[i] for i in places], decode, found)
    weighed[places[:skip]] = 0.0
  return weighed.tolist()


def to_arrays(
    played: list[episodes.Episode], weights: list[list[float]], pad: int,
    length: int,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """Episodes as the arrays of a Rollout, and the sampler's log-probs.

  Prompts are left-padded so that first completions start in one column.
  """
  starts = [e.mask.index(True) for e in played]
  prompt = episodes.width_of(max(starts))

  def column(name, fill, dtype):
    return packed([getattr(e, name) for e in played], fill, dtype)

  def packed(rows, fill, dtype):
    return episodes.pack(rows, length=length, fill=fill, dtype=dtype,
                         prompt=prompt, starts=starts)

  arrays = {
      'tokens': column('tokens', pad, np.int32),
      'mask': column('mask', False, bool),
      'turn_ids': column('turn_ids', -1, np.int32),
      'rewards': column('rewards', 0.0, np.float32),
      'weights': packed(weights, 0.0, np.float32),
  }
  sampled = column('log_probs', 0.0, np.float32)
  return arrays, sampled


def decoding_kl(played: list[episodes.Episode]) -> float:
  """KL(sampling distribution || full softmax) a token, k1 on the samples.

  In nats; of a rule that only excludes tokens, minus the mean log of the mass
  that it keeps.
  """
  return float(np.mean([
      drawn - full for e in played for counts, full, drawn in zip(
          e.mask, e.log_probs, e.sampling_log_probs, strict=True) if counts]))


def measure(
    played: list[episodes.Episode], experience: Experience,
    sampled: np.ndarray,
) -> dict[str, float]:
  """What a rollout says of the policy; rewards in the environment's units.

  `advantage_entropy` is that of the histogram of advantages over tokens, in
  nats: BINS equal bins, LIMIT deviations to either side (at most ln BINS; the
  bins of arXiv 2509.12235 are not stated).
  """
  rollout = experience.rollout
  mask = np.asarray(rollout.mask)
  if not mask.any():
    raise alarms.Halt(
        'no completion of a rollout has any token that counts: look at '
        'experience.length, which contexts are cut to')
  log_p = np.asarray(rollout.log_probs)
  ref = np.asarray(rollout.ref_log_probs)
  gap = np.abs(log_p - sampled)[mask]
  gains = np.asarray(experience.advantages)[mask]
  counts, _ = np.histogram(np.clip(
      gains, -LIMIT, LIMIT), bins=BINS, range=(-LIMIT, LIMIT))
  shares = counts[counts > 0] / counts.sum()
  outcomes = [next(k for k in e.turns[-1].parts if k != 'number_field')
              for e in played]
  return {
      'reward': float(np.mean([sum(t.reward for t in e.turns)
                               for e in played])),
      'success': float(np.mean([o == 'correct' for o in outcomes])),
      'turns': float(np.mean([len(e.turns) for e in played])),
      'completion_tokens': float(mask.sum() / len(played)),
      'tokens': float(sum(len(e.tokens) for e in played)),
      'samples': float(sum(len(e.turns) for e in played)),
      'advantage_largest': float(np.abs(gains).max()),
      'advantage_entropy': float(-(shares * np.log(shares)).sum()),
      'sampler_gap': float(gap.max()),
      'sampler_gap_mean': float(gap.mean()),
      'kl_k1': float((log_p - ref)[mask].mean()),
      'reference_gap': float(np.abs(log_p - ref)[mask].max()),
  }
