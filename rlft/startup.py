"""What has to be true of a run's first rollout, and should after a restart."""
import math

TOLERANCE = {'float32': (1e-4, 1e-4), 'bfloat16': (0.02, 0.5)}  # mean, largest


def check(data: dict, seen: dict, dtype: str) -> None:
  """ValueError if a run's first rollout and its loss are not what they must be.

  Every number that follows would be wrong, so the run does not begin.
  """
  said = wrong(data, seen, dtype)
  if said:
    raise ValueError(said)


def wrong(data: dict, seen: dict, dtype: str, step: int = 0) -> str:
  """What is beyond the tolerance of the dtype, in a line; '' if nothing is.

  Sampler = trainer, where both are known, and ratio = 1, unless rows of earlier
  updates are replayed; at step 0 also KL(policy, reference) = 0.
  """
  mean, largest = TOLERANCE[dtype]
  first = lambda name, sound: float(
      seen.get(f'first_{name}', seen.get(name, sound)))
  gaps = {}
  if 'sampler_gap' in data:
    gaps['the sampler and the trainer disagree on log-probs'] = (
        data['sampler_gap_mean'], data['sampler_gap'])
  if not data.get('staleness'):
    gaps['the first ratio is not 1'] = (
        # k3 is half the squared log-ratio, so it sees both directions
        math.sqrt(2 * first('approx_kl', 0.0)),
        abs(first('ratio_max', 1.0) - 1))
  if step == 0:  # later it has learned
    gaps['the policy is not its reference'] = (
        abs(data['kl_k1']), data['reference_gap'])
  for what, (average, top) in gaps.items():
    if not (average <= mean and top <= largest):
      return (f'{what} at step {step}: mean {average:.2e}, largest {top:.2e}, '
              f'allowed {mean:g} and {largest:g} in {dtype}')
  return ''
