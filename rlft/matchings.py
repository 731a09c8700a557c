"""What arms can be matched by, and what that asks of their configs."""
from collections.abc import Mapping
from typing import Any

import ml_collections

from rlft import binding, envs, spent
from rlft.training import optimizer

MATCHING = {  # what is equal between arms where they are compared
    'updates': 'optimizer steps, at the end',
    'tokens': 'tokens of the experience, prompts too, each counted once, at '
              'the end',
    'flops': 'FLOPs of sampling, scoring and training, at the end',
    'kl': 'KL(policy || base) per token on ID prompts, at the nearest '
          'evaluated step',
    'id_success': 'ID success, at the nearest evaluated step'}
AT_LEVEL = ('kl', 'id_success')  # the largest that all runs come to
REPORTED = ('id', 'ood')  # the evaluations that arms are compared by

Cell = tuple[str, int, Any]  # arm, seed, value of the tuned field (or None)


def possible(
    section: Mapping[str, Any], configs: Mapping[Cell, Mapping],
) -> None:
  """ValueError where configs say that what is to be matched cannot be."""
  matching, first = section['matching'], section['arms'][0]
  for (arm, *key), config in configs.items():
    measured(section, arm, config)
    if matching == 'kl' and not config['evals']['id'].get('kl'):
      raise ValueError(f'{arm} measures no KL: set evals.id.kl to a number of '
                       'tasks')
    if matching in ('tokens', 'flops') and config['log']['every'] != 1:
      raise ValueError(f'{arm} has log.every={config["log"]["every"]}: '
                       f'{matching} are the sum of what each step logged, so '
                       'set it to 1')
    control = configs[(first, *key)]
    bases = [c['base'] or c['init'] for c in (control, config)]
    if matching == 'kl' and bases[0] != bases[1]:
      raise ValueError(f'the KL of {first} is to {bases[0]!r} and that of '
                       f'{arm} to {bases[1]!r}: set the same base')
    counts = [spent.updates(c) for c in (control, config)]
    if matching == 'updates' and counts[0] != counts[1]:
      raise ValueError(
          f'{first} makes {counts[0]} updates and {arm} {counts[1]} (num_steps '
          '* passes.epochs * passes.minibatches): change num_steps')
    if counts[0] != counts[1] and all(
        ends(c['optimizer']) for c in (control, config)):
      raise ValueError(
          f'the learning rate of {first} falls over {counts[0]} updates and '
          f'that of {arm} over {counts[1]}: set optimizer.horizon to the same '
          'in both, or a schedule that does not end')


def ends(section: Mapping[str, Any]) -> bool:
  """Whether the learning rate falls until the run itself is over."""
  return section.get('schedule') in optimizer.ENDING and not section.get(
      'horizon')


def measured(
    section: Mapping[str, Any], arm: str, config: Mapping[str, Any]) -> None:
  """ValueError unless an arm is evaluated wherever it may be compared."""
  chosen_by = [section['chosen_by']] if section['tuned'] else []
  for name in ('id', *chosen_by):
    if name not in config['evals']:
      raise ValueError(f'{arm} has no evals.{name}: arms are compared by id '
                       'and ood, and chosen by chosen_by')
  end = {config['num_steps']}
  marks = binding.marks(
      ml_collections.ConfigDict(config['evaluate']), config['num_steps'])
  for name in (*REPORTED, *chosen_by):
    at_level = section['matching'] in AT_LEVEL and name in REPORTED
    due = config['evals'].get(name, {}).get('steps') or marks
    missing = sorted((marks if at_level else end) - set(due))
    if missing:
      raise ValueError(
          f'{arm} has no evals.{name} at step {missing[0]}, where it may be '
          'compared: add it to the steps of that evaluation')


def apart(section: Mapping[str, Any], config: Mapping) -> None:
  """ValueError if what chooses shares problems with what is reported."""
  def problems(name):
    options = config['evals'][name]
    world = envs.bind(**options['env'])
    tasks = world.hands(options.get('seed', 0), options.get('n', 1024))
    return {world.problem(t) if world.problem else t.prompt for t in tasks}

  chosen_by = section['chosen_by']
  mine = problems(chosen_by)
  for name in set(REPORTED) & set(config['evals']):
    shared = len(mine & problems(name))
    if shared:
      raise ValueError(f'evals.{chosen_by} shares {shared} problems with '
                       f'evals.{name}: give it a split of its own')
