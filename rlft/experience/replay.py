"""Replay: part of every batch was sampled at earlier updates.

Of the groups of a batch a share `fresh` is sampled anew, and the others are
drawn, each at most once, from those of the last `max_staleness` updates. A
replayed row is what it was when it was sampled, to the bit: its log-probs are
those of the policy that wrote it, so an objective's ratio is to that policy and
corrects for all that has changed since. Its advantages (whitened with the rows
that it was sampled with), values and reference log-probs are of that time, too.

The buffer is the state of this source, so a checkpoint has it, as text: the
arrays of up to `max_staleness` updates, compressed (some 40 bytes for each
token that the policy wrote).
"""
import base64
import inspect
import io
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from rlft.envs import Environment
from rlft.experience import rollouts
from rlft.experience.demonstrations import generator
from rlft.types import Experience, Metrics, Rollout, Source

COUNTED = ('tokens', 'samples')  # of several rollouts: the sum
SECONDS, LARGEST = '_seconds', ('sampler_gap', 'reference_gap')


class Groups(NamedTuple):
  """Groups of rows: the leading axes of all arrays are groups and rows."""
  experience: Experience
  updates: Int[np.ndarray, 'G']  # at which each group was sampled


def make(
    env: Environment, *, fresh: float = 0.5, max_staleness: int = 1,
    **settings: Any) -> Source:
  """Rollouts, with all their keywords; `prompts` is the groups of a batch.

  The first batch is all fresh. `staleness` tells the mean age of a batch's
  groups in updates, 0 for those sampled anew, `staleness_largest` the largest;
  `groups_drawn` is how many were sampled. What a rollout says of itself (its
  reward, its outcomes, its tokens, how far the sampler is from the trainer) is
  of the fresh ones. ValueError for a share that is no number of groups, and
  where the buffer could not fill the rest of a batch.
  """
  prompts, group = settings['prompts'], settings.get('group', 1)
  new = anew(prompts, fresh, max_staleness)
  inner = rollouts.make(env, **settings | dict(prompts=new))
  pad = settings['tokenizer'].pad

  def next_batch(state, params, metrics, key):
    del metrics
    now, kept = state['update'], list(map(opened, state['kept']))
    has = sum(len(one.updates) for one in kept)
    times = max(1, -(-(prompts - has) // new))
    sampled, told, rest = [], [], state['rollouts']
    for n in range(times):
      rest, experience, measured = inner.next(
          rest, params, {}, key if times == 1 else jax.random.fold_in(key, n))
      sampled.append(grouped(experience, group, now))
      told.append(measured)
    found = joined(sampled)
    mixed = mix(found, kept, prompts, jax.random.fold_in(
        key, prompts * group))  # no row of a rollout has such a key
    ages = now - mixed.updates
    state = {'rollouts': rest, 'update': now + 1, 'kept': [
        packed for packed, one in zip(state['kept'], kept, strict=True)
        if one.updates[0] + max_staleness > now]}
    if new < prompts:
      state['kept'].append(closed(found))
    experience = flat(mixed.experience)
    return state, experience, merged(told) | learned(experience, pad) | {
        'groups_drawn': len(found.updates), 'staleness': float(ages.mean()),
        'staleness_largest': int(ages.max())}

  return Source(lambda: {'rollouts': inner.init(), 'update': 0, 'kept': []},
                next_batch)


# what a config may say: its own keywords, and those that it hands on
make.__signature__ = inspect.Signature([
    p for function in (rollouts.make, make)
    for p in inspect.signature(function).parameters.values()
    if function is rollouts.make or p.name in ('fresh', 'max_staleness')])


def anew(prompts: int, fresh: float, max_staleness: int) -> int:
  """How many groups are sampled for a batch of `prompts`; else ValueError."""
  new = round(prompts * fresh)
  if not 0 < fresh <= 1 or abs(prompts * fresh - new) > 1e-6:
    raise ValueError(
        f'experience.fresh is {fresh}, of {prompts} prompts: give a share of '
        'them above 0, up to 1, that is a whole number')
  if max_staleness * new < prompts - new:
    raise ValueError(
        f'experience.max_staleness is {max_staleness}: {new} fresh groups of '
        f'so many updates do not fill {prompts}; raise it, or experience.fresh')
  return new


def grouped(experience: Experience, group: int, update: int) -> Groups:
  """A batch on the host, by groups of `group` rows that follow one another."""
  found = jax.tree.map(lambda x: np.asarray(x).reshape(
      -1, group, *x.shape[1:]), experience)
  return Groups(found, np.full(len(found.tokens), update))


def joined(some: Sequence[Groups]) -> Groups:
  """All of them, in order."""
  return jax.tree.map(lambda *x: np.concatenate(x), *some)


def mix(
    sampled: Groups, kept: Sequence[Groups], prompts: int, key: Key[Array, '']
) -> Groups:
  """`prompts` groups: those sampled, and from the buffer, in a random order."""
  mine = jax.tree.map(lambda x: x[:prompts], sampled)
  missing = prompts - len(mine.updates)
  if not missing:
    return mine
  old = joined(kept)
  chosen = generator(key).permutation(len(old.updates))[:missing]
  return joined([mine, jax.tree.map(lambda x: x[chosen], old)])


def flat(groups: Experience) -> Experience:
  """Rows again; each group has an id of its own."""
  count, rows = groups.tokens.shape[:2]
  found = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), groups)
  return found._replace(rollout=found.rollout._replace(
      prompt_ids=np.repeat(np.arange(count, dtype=np.int32), rows)))


def closed(groups: Groups) -> dict[str, Any]:
  """Groups of one update as JSON."""
  arrays = {**groups.experience.rollout._asdict(),
            'advantages': groups.experience.advantages,
            'returns': groups.experience.returns}
  return {'update': int(groups.updates[0]),
          'arrays': {name: written(x) for name, x in arrays.items()}}


def opened(kept: dict[str, Any]) -> Groups:
  """And back, to the bit."""
  arrays = {name: read(text) for name, text in kept['arrays'].items()}
  given = {name: arrays.pop(name) for name in ('advantages', 'returns')}
  found = Experience(Rollout(**arrays), **given)
  return Groups(found, np.full(len(found.tokens), kept['update']))


def written(x: np.ndarray) -> str:
  """An array as text."""
  file = io.BytesIO()
  np.save(file, np.ascontiguousarray(x), allow_pickle=False)
  return base64.b64encode(zlib.compress(file.getvalue(), 1)).decode()


def read(text: str) -> np.ndarray:
  """What `written` made a text of."""
  return np.load(io.BytesIO(zlib.decompress(base64.b64decode(text))),
                 allow_pickle=False)


def merged(told: Sequence[Metrics]) -> Metrics:
  """Of several rollouts in one: sums of what is counted, else means."""
  def one(name, values):
    if name in COUNTED or name.endswith(SECONDS):
      return sum(values)
    return max(values) if name in LARGEST else float(np.mean(values))

  return {name: one(name, [metrics[name] for metrics in told])
          for name in told[0]} if len(told) > 1 else told[0]


def learned(experience: Experience, pad: int) -> Metrics:
  """What is of all rows of a batch, the replayed ones as well."""
  mask = experience.mask
  real = (experience.tokens != pad) | (experience.rollout.turn_ids >= 0)
  return {
      'padding': float(1 - real.sum() / real.size),
      'learned': float(mask.any(axis=1).mean()),
      'advantage_largest': float(np.abs(experience.advantages[mask]).max())}
