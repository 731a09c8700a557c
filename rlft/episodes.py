"""Policies in environments: transcripts, token in and token out.

What the policy wrote is kept as the tokens that it sampled, never re-encoded,
so that what was sampled is what is trained on.
"""
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from rlft import decoding as rules
from rlft import ledger, policy, pulse, verifiers
from rlft.ops import prefixes, sharding
from rlft.tokenizer import Tokenizer
from rlft.types import Task, Turn


class Episode(NamedTuple):
  """One task, played to its end; lists have one entry per token."""
  task: Task
  tokens: list[int]
  mask: list[bool]  # True on what the policy wrote
  turn_ids: list[int]  # -1 on what it did not
  rewards: list[float]  # on the last token of each turn
  log_probs: list[float]  # the sampler's, at its temperature
  sampling_log_probs: list[float]  # of what was drawn from: after the rule
  completions: list[str]
  turns: list[Turn]


def was_cut(episode: Episode, stops: Sequence[int]) -> bool:
  """Whether the last turn met no stop; what the policy wrote ends there."""
  return episode.tokens[-1] not in stops


def transcript(
    tokenizer: Tokenizer, task: Task, tries: Sequence[tuple[str, str]],
    answer: str,
) -> tuple[list[int], list[bool]]:
  """A demonstration: earlier (completion, feedback) pairs, then the answer.

  Only the answer counts in the mask: nobody should learn the failures.
  """
  tokens = [*tokenizer.opening(task.prompt)]
  for completion, feedback in tries:
    tokens += [*tokenizer.completion(completion),
               *tokenizer.between(feedback)]
  last = tokenizer.completion(answer)
  return tokens + last, [False] * len(tokens) + [True] * len(last)


FINE = 272  # tokens: up to here prompt widths are 32 apart


def width_of(longest: int) -> int:
  """Prompt widths are rounded up to 16, 48, 80, ...: few are compiled.

  Above 272 there are four to a doubling, 320, 384, 448, 512, 640, ...: one in
  five columns at most is padding, and 4096 is the 25th width.
  """
  if longest <= FINE:
    return 16 + 32 * -(-max(longest - 16, 0) // 32)
  apart = 2**((longest - 1).bit_length() - 3)
  return apart * -(-longest // apart)


class Scores(NamedTuple):
  """Log-probs of one completion's tokens, at the sampling temperature."""
  log_probs: list[float]  # full softmax
  sampling_log_probs: list[float]  # of what was drawn from: after the rule


Completer = Callable[  # the first keys are of the contexts, in order
    [Any, list[list[int]], Key[Array, 'B']],
    tuple[list[list[int]], list[Scores]]]


@functools.lru_cache  # one compilation for all that sample the same way
def sampler(
    model: Any, *, pad: int, stops: tuple[int, ...], max_new_tokens: int,
    temperature: float, decoding: tuple = (), slots: int = 0, parts: int = 1,
) -> Callable:
  """sample(params, prompts, keys, of) -> policy.Sampled, jitted, dealt out."""
  rule = rules.bind(**dict(decoding)) if decoding else None

  @jax.jit
  def sample(params, prompts, keys, of):
    prompts, keys, of = sharding.rows((prompts, keys, of))
    return sharding.everywhere(policy.sample(
        model, params, prompts, keys, max_new_tokens=max_new_tokens,
        stops=stops, pad=pad, temperature=temperature, rule=rule, of=of,
        slots=slots, parts=parts))

  return sample


def completer(
    model: Any, *, pad: int, stops: tuple[int, ...], max_new_tokens: int,
    temperature: float, rows: int = 256, decoding: tuple = (), slots: int = 0,
    meter: Counter | None = None,
) -> Completer:
  """complete(params, contexts, keys) -> new tokens and their scores.

  Contexts of any number are sampled `rows` at a time, long ones together, one
  compilation per width and halving of how many are different
  (`ops/prefixes.py`); a batch ends as soon as all of its rows have. `slots` of
  them are decoded at once, 0 being all: one that has ended makes room for the
  next. `decoding` has the name and the settings of a rule as pairs; empty,
  there is none. What it took is added to the `meter` (`health.sampling`).
  """
  slots = min(slots or rows, rows)
  meter = Counter() if meter is None else meter

  def complete(params, contexts, keys):
    parts = prefixes.parts(rows, slots)
    sample = sampler(
        model, pad=pad, stops=stops, max_new_tokens=max_new_tokens,
        temperature=temperature, decoding=decoding,
        slots=slots if slots < rows else 0, parts=parts)
    widths = [width_of(len(context)) for context in contexts]
    # up to FINE the given order stays: there is little padding to save
    order = sorted(range(len(contexts)), key=lambda i: max(widths[i], FINE))
    new, scores = {}, {}
    for start in range(0, len(contexts), rows):
      pulse.beat()
      batch = order[start:start + rows]
      width = max(widths[i] for i in batch)
      prompts, of = prefixes.shared([contexts[i] for i in batch], rows, parts)
      index = np.array(batch + batch[-1:] * (rows - len(batch)))
      out = jax.device_get(sample(
          {'policy': params['policy']}, jnp.asarray(pack(
              prompts, length=width, fill=pad, dtype=np.int32, prompt=width,
              starts=[len(prompt) for prompt in prompts])),
          keys[index], None if of is None else jnp.asarray(of)))
      for row, i in enumerate(batch):
        wrote = out.mask[row]
        new[i] = out.tokens[row][wrote].tolist()
        scores[i] = Scores(
            out.log_probs[row][wrote].tolist(),
            out.sampling_log_probs[row][wrote].tolist())
      decoded = sum(max(len(new[i]) - 1, 0) for i in batch)
      meter.update(
          decoded=decoded, steps=int(out.steps) * slots,
          needed=sum(map(len, prompts)) + decoded,
          computed=len(prompts) * width + int(out.steps) * slots)
    given = range(len(contexts))
    return [new[i] for i in given], [scores[i] for i in given]

  return complete


def play(
    respond: Callable, tasks: Sequence[Task], complete: Completer, params: Any,
    tokenizer: Tokenizer, key: Key[Array, ''], *, tries: int = 1,
    end_truncated: bool = False, pool: verifiers.Pool | None = None,
    rows: int = 0, clock: ledger.Clock | None = None,
) -> list[Episode]:
  """Plays every task for up to `tries` turns with the verifier's feedback.

  Sample i of turn t uses fold_in(fold_in(key, i), t). A turn that met no stop
  ends its episode if `end_truncated`; else a chat's is closed before the
  feedback, by a token that the policy did not write. `respond` judges here, or
  a `pool` elsewhere, the first `rows` while the next are sampled. The clock is
  told of the phases `rollout` and `reward`, which is then what is waited for.
  """
  clock = clock or ledger.Clock()
  episodes = [_opened(tokenizer.opening(task.prompt), task) for task in tasks]
  judge = verifiers.Here(respond) if pool is None else pool
  active = list(range(len(tasks)))
  for turn in range(tries):
    if not active:
      break
    begun, still = [], []
    with verifiers.dropping(begun):
      for part in _parts(active, rows):
        new, scores = complete(
            params, [episodes[i].tokens for i in part],
            _keys(key, part, turn, min(rows or len(tasks), len(tasks))))
        clock.lap('rollout')
        for i, tokens, log_p in zip(part, new, scores, strict=True):
          _write(episodes[i], tokens, log_p, tokenizer, turn)
          begun.append(judge.begin(episodes[i].task, episodes[i].completions))
          pulse.beat()  # a verifier may take its time
        clock.lap('reward')
      replies = judge.ended(begun)
    for i, reply in zip(active, replies, strict=True):
      episodes[i].turns.append(reply)
      episodes[i].rewards[-1] = float(reply.reward)
      cut = was_cut(episodes[i], tokenizer.stops)
      if not reply.done and turn + 1 < tries and not (cut and end_truncated):
        if cut:
          _append(episodes[i], tokenizer.cut)
        _append(episodes[i], tokenizer.between(reply.observation))
        still.append(i)
    active = still
    clock.lap('reward')
  return episodes


def _opened(prompt: list[int], task: Task) -> Episode:
  n = len(prompt)
  return Episode(task, prompt, [False] * n, [-1] * n, [0.0] * n, [0.0] * n,
                 [0.0] * n, [], [])


def _parts(active: list[int], rows: int) -> Iterator[list[int]]:
  """So many at a time, 0 being all of them."""
  for at in range(0, len(active), rows or len(active)):
    yield active[at:at + (rows or len(active))]


def _keys(key, rows, turn, size):
  """Of these rows, and of the last one again, up to `size`: one program."""
  return _folded(key, np.array(rows + rows[-1:] * (size - len(rows))), turn)


@jax.jit
def _folded(key, rows, turn):
  fold = lambda row: jax.random.fold_in(jax.random.fold_in(key, row), turn)
  return jax.vmap(fold)(rows)


def _write(episode, tokens, scores, tokenizer, turn):
  """What the policy wrote in a turn, which is yet to be paid."""
  episode.completions.append(tokenizer.decode(tokens))
  _append(episode, tokens, mask=True, turn=turn, scores=scores)


def _append(episode, tokens, *, mask=False, turn=-1, scores=None):
  zeros = [0.0] * len(tokens)
  episode.tokens.extend(tokens)
  episode.mask.extend([mask] * len(tokens))
  episode.turn_ids.extend([turn] * len(tokens))
  episode.rewards.extend(zeros)
  scores = Scores(zeros, zeros) if scores is None else scores
  episode.log_probs.extend(scores.log_probs)
  episode.sampling_log_probs.extend(scores.sampling_log_probs)


def decoding_kl(played: Sequence[Episode]) -> float:
  """KL(sampling distribution || full softmax) a token, k1 on the samples.

  In nats; of a rule that only excludes tokens, minus the mean log of the mass
  that it keeps.
  """
  return float(np.mean([
      drawn - full for e in played for counts, full, drawn in zip(
          e.mask, e.log_probs, e.sampling_log_probs, strict=True) if counts]))


def pack(
    rows: Sequence[Sequence], *, length: int, fill: Any, dtype: Any,
    prompt: int = 0, starts: Sequence[int] | None = None,
) -> np.ndarray:
  """Ragged lists into (B, length), right-padded with `fill`.

  With `prompt`, row i is shifted so that its first `starts[i]` entries end at
  column `prompt`: completions then start in one column. ValueError when a row
  does not fit.
  """
  packed = np.full((len(rows), length), fill, dtype)
  for i, row in enumerate(rows):
    at = 0 if starts is None else prompt - starts[i]
    if at < 0 or at + len(row) > length:
      raise ValueError(
          f'a transcript of {len(row)} tokens does not fit in {length}: raise '
          'the length of the experience section'
          f'{f" to {at + len(row)} or more" if at > 0 else ""}')
    packed[i, at:at + len(row)] = row
  return packed
