"""What a run spends: updates, tokens and FLOPs, by its config and its log."""
from collections.abc import Mapping, Sequence
from typing import Any

from rlft import binding


def updates(config: Mapping[str, Any], steps: int | None = None) -> int:
  """Optimizer steps of a run, or of its first `steps` steps."""
  passes = config['passes']
  return (config['num_steps'] if steps is None else steps) * passes.get(
      'epochs', 1) * passes.get('minibatches', 1)


def tokens(rows: Sequence[Mapping[str, Any]], steps: int) -> float:
  """Tokens of the experience of the first `steps` steps, each counted once.

  Prompts too, however many epochs they are learned from. `rows` are those of
  metrics.jsonl; ValueError unless each of these steps has one that says it.
  """
  logged = {row.get('step'): row.get('tokens') for row in rows}
  missing = [step for step in range(1, steps + 1) if logged.get(step) is None]
  if missing:
    raise ValueError(f'the tokens of step {missing[0]} were not logged')
  return float(sum(logged[step] for step in range(1, steps + 1)))


def flops_per_token(config: Mapping[str, Any]) -> tuple[int, int, int]:
  """FLOPs for each parameter and token: of sampling, scoring and learning it.

  2 a forward pass and 4 a backward one, of which adapters save half (no
  gradient of the weights). A rollout is sampled, scored by policy, reference
  and critic, and learned from in every epoch. Left out: attention over
  positions, padding, what `remat` makes again, the optimizer, evaluations.
  """
  train = 4 if config['lora']['rank'] else 6
  if not binding.is_online(config):
    return 0, 0, train
  critic = int(config['critic'])
  return 2, 2 * (2 + critic), config['passes'].get('epochs', 1) * (
      train + 6 * critic)


def flops(
    rows: Sequence[Mapping[str, Any]], steps: int, config: Mapping[str, Any],
) -> float:
  """FLOPs for each parameter in the first `steps` steps.

  Where a source learns from fewer or more groups than it sampled, it says how
  many these were (`groups_drawn`). None is scored twice. ValueError as
  `tokens`.
  """
  tokens(rows, steps)
  last = {row.get('step'): row for row in rows}
  sampled, scored, learned = flops_per_token(config)

  def per_token(row):
    share = config['experience']['prompts'] / row['groups_drawn'] if (
        'groups_drawn' in row) else 1.0
    return sampled + min(share, 1.0) * scored + share * learned

  return sum(row['tokens'] * per_token(row)
             for row in (last[step] for step in range(1, steps + 1)))
