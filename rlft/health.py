"""What a rollout says of itself: whether anything can be learned from it.

  zero_spread       share of the groups whose completions were all paid the same
                    (groups of two or more only)
  empty             share of completions that are nothing but a stop
  sampling_padding  share of the token positions computed in sampling that no
                    row needed: prompts are as wide as a batch's widest, and a
                    batch goes on until its longest completion has ended
  slot_use          share of the positions computed in decoding, steps times
                    slots, that held a token
"""
import math
from collections.abc import Mapping, Sequence

import numpy as np

from rlft import episodes
from rlft.ops import alarms
from rlft.types import Experience, Metrics, Rollout

BINS, LIMIT = 20, 4.0


def measure(
    played: Sequence[episodes.Episode], *, group: int, stops: Sequence[int],
) -> Metrics:
  """What completions and rewards say; groups of `group` follow one another."""
  found = {'empty': empty(played, stops)}
  if group > 1:
    paid = [sum(t.reward for t in e.turns) for e in played]
    found['zero_spread'] = zero_spread(
        [paid[at:at + group] for at in range(0, len(paid), group)])
  return found


def zero_spread(groups: Sequence[Sequence[float]]) -> float:
  """The share of groups of rewards that are all equal.

  NaN, where a verifier failed, is none.
  """
  return float(np.mean([len(set(filter(math.isfinite, paid))) < 2
                        for paid in groups]))


def empty(played: Sequence[episodes.Episode], stops: Sequence[int]) -> float:
  """The share of completions, of every turn, that are nothing but a stop."""
  written = [_written(e, turn) for e in played for turn in range(len(e.turns))]
  return float(np.mean([
      len(tokens) == 1 and tokens[0] in stops for tokens in written]))


def sampling(meter: Mapping[str, int]) -> Metrics:
  """What sampling computed for nothing; positions that a completer counted.

  `computed` are those of prompts and of steps of decoding, `needed` those of
  them that held a token; `steps` and `decoded` are the same of decoding alone.
  A completion's last token is drawn and never computed with. Where all ended
  with their first tokens nothing was decoded, and no slot was empty.
  """
  return {'sampling_padding': 1 - meter['needed'] / meter['computed'],
          'slot_use': meter['decoded'] / meter['steps']
                      if meter['steps'] else 1.0}


def learned(rollout: Rollout, experience: Experience) -> dict[str, float]:
  """What a rollout says of the policy, and what is learned from it.

  Log-probs are compared on all that the policy wrote, whether or not it counts
  in the experience. `learned` is the share of rows that do.
  `advantage_entropy` is that of the histogram of advantages over tokens, in
  nats: BINS equal bins, LIMIT deviations to either side (at most ln BINS; the
  bins of arXiv 2509.12235 are not stated). Halt where nothing counts.
  """
  wrote, mask = (np.asarray(x.mask) for x in (rollout, experience))
  if not mask.any():
    raise alarms.Halt(
        'no completion of a rollout has any token that counts: look at '
        'experience.length, which contexts are cut to' if not wrote.any() else
        'no row of a rollout enters the loss: what they are is not in '
        'experience.learn_from, or all were cut (mask_truncated); '
        f'{rollout.truncated.mean():.0%} met no stop in max_new_tokens')
  log_p, ref = map(np.asarray, (rollout.log_probs, rollout.ref_log_probs))
  gap = np.abs(log_p - rollout.sampler_log_probs)[wrote]
  gains = np.asarray(experience.advantages)[mask]
  counts, _ = np.histogram(np.clip(
      gains, -LIMIT, LIMIT), bins=BINS, range=(-LIMIT, LIMIT))
  shares = counts[counts > 0] / counts.sum()
  return {
      'completion_tokens': float(wrote.sum() / len(wrote)),
      'learned': float(mask.any(axis=1).mean()),
      'advantage_largest': float(np.abs(gains).max()),
      'advantage_entropy': float(-(shares * np.log(shares)).sum()),
      'sampler_gap': float(gap.max()),
      'sampler_gap_mean': float(gap.mean()),
      'kl_k1': float((log_p - ref)[wrote].mean()),
      'reference_gap': float(np.abs(log_p - ref)[wrote].max()),
  }


def _written(episode: episodes.Episode, turn: int) -> list[int]:
  return [token for token, of in zip(
      episode.tokens, episode.turn_ids, strict=True) if of == turn]
