"""What has to be true of the first rollout of a run, and after a restart."""
import math

TOLERANCE = {'float32': (1e-4, 1e-4), 'bfloat16': (0.02, 0.5)}  # mean, largest


def check(data: dict, seen: dict, dtype: str, step: int = 0) -> None:
  """Sampler = trainer and ratio = 1; at step 0 also KL(policy, reference) = 0.

  Raises ValueError beyond the tolerance of the dtype: every number that
  follows would be wrong, so the run does not begin, nor go on.
  """
  mean, largest = TOLERANCE[dtype]
  gaps = {
      'the sampler and the trainer disagree on log-probs':
          (data['sampler_gap_mean'], data['sampler_gap']),
      'the first ratio is not 1':
          # k3 is half the squared log-ratio, so it sees both directions
          (math.sqrt(2 * float(seen.get('approx_kl', 0.0))),
           abs(float(seen.get('ratio_max', 1.0)) - 1)),
  }
  if step == 0:  # later it has learned
    gaps['the policy is not its reference'] = (
        abs(data['kl_k1']), data['reference_gap'])
  for what, (average, top) in gaps.items():
    if not (average <= mean and top <= largest):
      raise ValueError(
          f'{what} at step {step}: mean {average:.2e}, largest {top:.2e}, '
          f'allowed {mean:g} and {largest:g} in {dtype}')
