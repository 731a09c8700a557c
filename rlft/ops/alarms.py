"""Numbers that end a run: past them it would only spend time.

`limits` of a config: `skipped`, in how many steps in a row an update may be
skipped for a loss or a gradient that is not finite, or all advantages be 0;
`max_kl` of the mean KL to the reference, in nats per token; `max_ratio` of the
largest ratio of probabilities; `min_entropy` of the mean entropy, in nats per
token; of a rollout `max_zero_spread`, the share of groups whose rewards are all
equal, `max_empty` and `max_truncated`, the shares of completions that are
nothing but a stop, and of episodes whose last met none, and `max_unjudged`, the
share of episodes whose verifier crashed or timed out. 0 is no limit.
"""
from rlft.types import Metrics

LIMITS = {  # the number that each is of
    'max_kl': 'kl', 'max_ratio': 'ratio_max', 'min_entropy': 'entropy',
    'max_zero_spread': 'zero_spread', 'max_empty': 'empty',
    'max_truncated': 'truncated', 'max_unjudged': 'unjudged'}


class Halt(ValueError):
  """The run's own numbers say that it must not go on."""
  exit_code = 44


def look(
    seen: Metrics, data: Metrics, before: int, *, step: int, skipped: int = 0,
    max_kl: float = 0.0, max_ratio: float = 0.0, min_entropy: float = 0.0,
    max_zero_spread: float = 0.0, max_empty: float = 0.0,
    max_truncated: float = 0.0, max_unjudged: float = 0.0,
) -> int:
  """The number of fruitless steps in a row, of which `before` were known.

  `seen` is what the update measured and `data` what the experience did, at
  `step`. Raises Halt with the reason.
  """
  if seen.get('completion_tokens') == 0:
    raise Halt(f'step {step}: no token of the batch counts: look at the mask, '
               'or at the length that completions are cut to')
  fruitless = {
      'an update was skipped, its loss or gradient not being finite':
          seen.get('skipped', 0.0) > 0,
      'all advantages were 0': data.get('advantage_largest') == 0,
      'every completion was empty': data.get('empty') == 1}
  in_row = before + 1 if any(fruitless.values()) else 0
  if skipped and in_row >= skipped:
    why = ' and '.join(k for k, v in fruitless.items() if v)
    raise Halt(f'step {step}: {why}, and {in_row} steps in a row like this are '
               'as many as limits.skipped allows; steps saved since they began '
               'may be spoiled, too: begin anew in another directory, with a '
               'lower optimizer.learning_rate or other rewards')
  told = {**data, **seen}
  limits = dict(
      max_kl=max_kl, max_ratio=max_ratio, min_entropy=min_entropy,
      max_zero_spread=max_zero_spread, max_empty=max_empty,
      max_truncated=max_truncated, max_unjudged=max_unjudged)
  for key, limit in limits.items():
    name = LIMITS[key]
    if not limit or name not in told:
      continue
    found = float(told[name])
    within = found >= limit if key.startswith('min') else found <= limit
    if not within:  # nor is what is not a number
      raise Halt(f'step {step}: {name} is {found:.4g}, beyond '
                 f'limits.{key}={limit:g}')
  return in_row
