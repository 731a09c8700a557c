"""Rollouts: the policy plays, the environment pays, credit is assigned.

Rows whose last turn's kind (rlft/outcomes.py) is not in `learn_from` do not
count, nor, with `mask_truncated`, those that were cut, correct or not (the
overlong filtering of arXiv 2503.14476, section 3.4). Of such a row no token is
in the mask of the experience: it is in no loss, no group and no statistic of
advantages. With `end_truncated` a turn that was cut is an episode's last.

`verifiers=dict(workers=2, deadline=5.0)` judges completions in other processes
(rlft/verifiers.py), those of the first `sample_rows` while the next ones are
sampled; 0 is all at once. Of those, `slots` are decoded at once, 0 being all,
and where one has ended comes the next (continuous batching,
ops/batching.py).

Completions begin at column `prompt_length` or, if a prompt is longer, after it;
the columns before it are computed once for a group, in scoring and in the
update (ops/branches.py). With 0 they begin right after the longest prompt, and
each row has all its columns.

Without `rescore` the behaviour's log-probs are the sampler's: a pass less.

With `kl_target`, in nats per episode, `advantages.kl_reward_coef` is only where
the coefficient of the KL in the reward begins: it follows the KL of the
rollouts (rewards/kl.py:adapted), and is the state of this source.
"""
import functools
import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key, PyTree

from rlft import episodes, health, ledger, outcomes, policy
from rlft import verifiers as processes
from rlft.adapters import lora
from rlft.envs import Environment
from rlft.experience.demonstrations import generator
from rlft.ops import masked, sharding, spans
from rlft.rewards import kl as kl_reward
from rlft.tokenizer import Tokenizer
from rlft.types import Experience, Metrics, Rollout, Source


class Drawn(NamedTuple):
  """What a batch is made of: groups of the completions of one prompt."""
  groups: list[list[episodes.Episode]]  # as many as `prompts`
  full: int  # the first so many of them may enter the loss
  played: list[episodes.Episode]  # all that was sampled for it
  told: Metrics


def once(play: Callable, enters: Callable, key: Key[Array, '']) -> Drawn:
  """Whatever is sampled first: play(key) gives groups, as many as `prompts`.

  What takes its place may choose among several, and by enters(episode), which
  tells whether a row may enter the loss.
  """
  del enters
  groups = play(key)
  return Drawn(groups, len(groups), flat(groups), {})


def source(
    draw: Callable, env: Environment, *, tokenizer: Tokenizer, model: Any,
    advantages: Callable, ref_params: PyTree, prompts: int, group: int = 1,
    tries: int = 1, temperature: float = 1.0, max_new_tokens: int = 20,
    length: int = 36, reward_scale: float = 1.0, skip_tokens: int = 0,
    decoding: tuple = (), kl_target: float | None = None,
    kl_horizon: int = 10000, end_truncated: bool = False,
    mask_truncated: bool = False, learn_from: Sequence[str] = outcomes.LEARNED,
    verifiers: dict[str, Any] | None = None, sample_rows: int = 0,
    slots: int = 0, prompt_length: int = 0, rescore: bool = True,
) -> Source:
  """Experience of `prompts` tasks x `group` samples, in rows of `length`.

  Behaviour log-probs are the trainer's own, at the sampling temperature, so a
  first ratio is exactly 1; how far the sampler's are from them is the metric
  `sampler_gap` (largest absolute difference, nats). Under a rule (`decoding`:
  its name and settings as pairs) both are still those of the full softmax, and
  `decoding_kl` tells how far that is from what was drawn from. Rewards are
  multiplied by `reward_scale` before anything is learned from them; the metrics
  are not. Only an objective of whole turns reads the weights: those of the
  environment's spans, and 0 for the first `skip_tokens` tokens of a turn.
  """
  refuse(temperature, skip_tokens)
  learned = outcomes.known(learn_from, 'experience.learn_from')
  pool = processes.pool(env.respond, verifiers, learned)
  start = 0 if kl_target is None else coefficient(
      advantages, kl_target, kl_horizon)
  meter = Counter()
  play = player(
      env, tokenizer, episodes.completer(
          model, pad=tokenizer.pad, stops=tokenizer.stops,
          rows=at_once(prompts * group, sample_rows, slots),
          max_new_tokens=max_new_tokens, temperature=temperature,
          decoding=decoding, slots=slots, meter=meter), prompts, group,
      tries=tries, pool=pool, end_truncated=end_truncated, rows=sample_rows)
  score = scorer(model, temperature, rescore, prompt_length,
                 group if prompt_length else 1)
  enters = outcomes.admitting(learned, tokenizer.stops, not mask_truncated)

  @jax.jit
  def assign(rollout, state):
    cost = {} if kl_target is None else {'kl_reward_coef': state}
    return advantages(cleared(rollout, reward_scale), **cost)

  def next_batch(state, params, metrics, key):
    del metrics
    clock = ledger.Clock()
    meter.clear()
    drawn = draw(functools.partial(
        play, lora.merge(params), clock=clock), enters, key)
    chosen = flat(drawn.groups)
    arrays = to_arrays(
        chosen, [weigh(e, env.spans, tokenizer.decode, skip_tokens)
                 for e in chosen], tokenizer, length, prompt_length)
    clock.lap('reward')
    log_p, ref_log_p, values = score(params, ref_params, arrays['tokens'])
    if not rescore:
      log_p = arrays['sampler_log_probs']
    rollout = Rollout(
        **arrays, log_probs=log_p, ref_log_probs=ref_log_p, values=values,
        prompt_ids=np.repeat(np.arange(prompts, dtype=np.int32), group))
    enter = np.array([i < drawn.full * group and enters(e)
                      for i, e in enumerate(chosen)])
    experience = assign(rollout._replace(
        mask=rollout.mask & enter[:, None]), state)
    measured = tell(drawn, rollout, experience, tokenizer.stops, group,
                    meter, rescore)
    if decoding:
      measured['decoding_kl'] = episodes.decoding_kl(drawn.played)
    if kl_target is not None:
      measured['kl_reward_coef'] = state
      nats = measured['kl_k1'] * measured['completion_tokens']
      state = kl_reward.adapted(
          state, nats, target=kl_target, horizon=kl_horizon, rows=len(chosen))
    clock.lap('log_prob')
    return state, experience, measured | clock.flush()

  return Source(lambda: start, next_batch)


make = functools.partial(source, once)


def refuse(temperature: float, skip_tokens: int) -> None:
  """ValueError for numbers that make no sense."""
  if temperature <= 0:
    raise ValueError(
        f'rollouts at temperature {temperature} explore nothing: raise it')
  if skip_tokens < 0:
    raise ValueError(f'experience.skip_tokens is {skip_tokens}: it is a number '
                     'of tokens, 0 or more')


def at_once(batch: int, sample_rows: int, slots: int) -> int:
  """Rows that are sampled at once; ValueError where they do not split."""
  sharding.split(slots, 'experience.slots')
  return min(
      sharding.split(sample_rows, 'experience.sample_rows') or batch, batch)


def flat(groups: list[list]) -> list:
  """The rows of all groups, in order."""
  return list(itertools.chain(*groups))


def player(
    env: Environment, tokenizer: Tokenizer, complete: episodes.Completer,
    prompts: int, group: int, **options: Any,
) -> Callable:
  """play(params, key, clock) -> `prompts` groups of episodes of a task each."""

  def play(params, key, clock):
    rng = generator(key)
    tasks = [env.sample(rng) for _ in range(prompts)]
    played = episodes.play(
        env.respond, [t for t in tasks for _ in range(group)], complete,
        params, tokenizer, key, clock=clock, **options)
    return [played[i:i + group] for i in range(0, len(played), group)]

  return play


def cleared(rollout: Rollout, scale: float) -> Rollout:
  """Zeros off the mask, and rewards times `scale`."""
  zero = lambda x: masked.keep(x, rollout.mask)
  return rollout._replace(
      rewards=zero(rollout.rewards) * scale,
      log_probs=zero(rollout.log_probs), values=zero(rollout.values),
      ref_log_probs=zero(rollout.ref_log_probs),
      sampler_log_probs=zero(rollout.sampler_log_probs))


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
def scorer(
    model: Any, temperature: float, rescore: bool = True, prompt: int = 0,
    group: int = 1,
) -> Callable:
  """score(params, ref_params, tokens) -> log-probs of both, and values.

  Without `rescore` None for the first, which is not computed.
  """
  forward = functools.partial(policy.forward, model, temperature=temperature,
                              prompt=prompt, group=group)

  @jax.jit
  def score(params, ref_params, tokens):
    tokens = sharding.rows(tokens, 'a rollout')
    out = forward(params, tokens)
    ref = forward({'policy': ref_params['policy']}, tokens)
    return sharding.everywhere((
        out.log_probs if rescore else None, ref.log_probs, out.values))

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
    played: list[episodes.Episode], weights: list[list[float]],
    tokenizer: Tokenizer, length: int, prompt_length: int = 0,
) -> dict[str, np.ndarray]:
  """Episodes as arrays of a Rollout, those that the sampler knows.

  Prompts are left-padded so that first completions start in one column, right
  after the longest, or at `prompt_length`: what is scored and learned from is
  `length` wide whatever the prompts are, so that no rounded width saves a
  compilation here.
  """
  starts = [e.mask.index(True) for e in played]
  prompt = max(*starts, prompt_length)

  def column(name, fill, dtype):
    return packed([getattr(e, name) for e in played], fill, dtype)

  def packed(rows, fill, dtype):
    return episodes.pack(rows, length=length, fill=fill, dtype=dtype,
                         prompt=prompt, starts=starts)

  return {
      'tokens': column('tokens', tokenizer.pad, np.int32),
      'mask': column('mask', False, bool),
      'turn_ids': column('turn_ids', -1, np.int32),
      'rewards': column('rewards', 0.0, np.float32),
      'weights': packed(weights, 0.0, np.float32),
      'sampler_log_probs': column('log_probs', 0.0, np.float32),
      'truncated': np.array([
          episodes.was_cut(e, tokenizer.stops) for e in played]),
  }


def tell(drawn: Drawn, rollout: Rollout, experience: Experience,
         stops: Sequence[int], group: int, meter: Counter, rescored: bool
         ) -> Metrics:
  """All that is measured of a batch and of what was sampled for it.

  Unless rescored, nothing says how far the sampler is from the trainer.
  """
  tokens = sum(len(e.tokens) for e in flat(drawn.groups))
  told = {'padding': 1 - tokens / rollout.tokens.size, **drawn.told,
          **health.learned(rollout, experience),
          **outcomes.count(drawn.played, stops), **health.sampling(meter),
          **health.measure(drawn.played, group=group, stops=stops)}
  return {k: v for k, v in told.items()
          if rescored or not k.startswith('sampler_gap')}
