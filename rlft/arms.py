"""A controlled comparison: arms of a study that differ in one thing.

`config.comparison` of a study says which. An arm is the stages of one role, one
for each seed; arms have the same seeds. Between arms only these may differ:

  the treatment   SFT_OR_RL, or a section or a field of their configs, with
                  what it cannot do without (BRINGS)
  the length      how far a stage goes, and at which steps it is measured,
                  logged and saved (LENGTH): what a matching needs
  a tuned field   with `tuned` an arm is a grid: a stage for each value of that
                  field and each seed, the same values in all arms. The report
                  takes the value with the most success on the evaluation
                  `chosen_by`, which shares no problem with those it reports.

Within an arm only the seed and what is tuned may differ. Anything else is an
error, before any work is done. What arms were matched by, and whether they are,
is in the report (`rlft/report/arms.py`).
"""
import itertools
from collections.abc import Mapping
from typing import Any

import ml_collections

from rlft import binding, envs, parts, spent

SFT_OR_RL = 'sft_or_rl'
OBJECTIVE = ('objective', 'advantages', 'critic',
             'optimizer.critic_learning_rate', 'optimizer.critic_warmup_steps')
BRINGS = {  # treatment -> what may differ with it; any other: itself alone
    'objective': OBJECTIVE,
    # between an arm of SFT and one of RL; two of RL as by 'objective'
    SFT_OR_RL: (*OBJECTIVE, 'experience', 'passes', 'decoding', 'limits'),
}
LENGTH = ('num_steps', 'evaluate', 'checkpoint', 'log')
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
PLACED = ('sft', 'rl', 'rl_kl', 'sft_mixed', 'base')  # one stage a start

Cell = tuple[str, int, Any]  # arm, seed, value of the tuned field (or None)


def declare(
    study: ml_collections.ConfigDict, *, treatment: str,
    arms: tuple[str, ...], matching: str, tuned: str = '', chosen_by: str = '',
    tolerance: float = 0.05,
) -> ml_collections.ConfigDict:
  """The study, with a comparison of its stages; the first arm is the control.

  Beyond `tolerance`, as a share, the report calls arms not matched.
  """
  study.comparison = ml_collections.ConfigDict(dict(
      treatment=treatment, arms=arms, matching=matching, tuned=tuned,
      chosen_by=chosen_by, tolerance=tolerance))
  return study


def check(study: ml_collections.ConfigDict) -> None:
  """ValueError, one line, if the comparison that a study declares is none."""
  if 'comparison' not in study:
    return
  section = binding.complete(parts.fill(
      plain, 'comparison', **study.comparison.to_dict()), 'comparison')
  with parts.named('comparison'):
    section = section()
    stages = {
        name: dict(role=stage.role, seed=stage.seed, config=(
            stage.config.copy_and_resolve_references().to_dict()))
        for name, stage in study.stages.items()}
    found = cells(section, stages)
    complete(section, found)
    configs = {cell: stages[name]['config'] for cell, name in found.items()}
    within(section, stages, found)
    between(section, configs)
    matched(section, configs)
    if section['tuned']:
      apart(section, next(iter(configs.values())))


def plain(
    *, treatment: str, arms: tuple | list, matching: str, tuned: str = '',
    chosen_by: str = '', tolerance: float | int = 0.05,
) -> dict[str, Any]:
  """The section as a dict; ValueError for what it cannot be."""
  if matching not in MATCHING:
    raise ValueError(
        f'no matching {matching!r}; known: {", ".join(MATCHING)}')
  if len(arms) < 2 or len(set(arms)) < len(arms):
    raise ValueError(f'arms are two or more roles of stages, not {arms!r}')
  if bool(tuned) != bool(chosen_by):
    raise ValueError('tuned names a field and chosen_by the evaluation that '
                     'its value is chosen by: set both, or neither')
  if chosen_by in REPORTED:
    raise ValueError(f'evals.{chosen_by} is reported, so nothing can be chosen '
                     'by it: set chosen_by to another evaluation')
  if not 0 < tolerance < 1:
    raise ValueError(f'tolerance is {tolerance}: give a share above 0, below 1')
  return dict(treatment=treatment, arms=tuple(arms), matching=matching,
              tuned=tuned, chosen_by=chosen_by, tolerance=float(tolerance))


def cells(
    section: Mapping[str, Any], stages: Mapping[str, Any],
) -> dict[Cell, str]:
  """The stage of each arm, seed and value of the tuned field, arm by arm.

  `stages`: name -> dict(role, seed, config). ValueError where two stages are
  one cell, or where an arm has none that is a run.
  """
  found: dict[Cell, str] = {}
  for arm in section['arms']:
    mine = [name for name, stage in stages.items()
            if stage['role'] == arm and 'objective' in stage['config']]
    if not mine:
      roles = dict.fromkeys(s['role'] for s in stages.values())
      raise ValueError(f'no run has the role {arm}; known: {", ".join(roles)}')
    for name in mine:
      value = fields(stages[name]['config']).get(section['tuned'])
      cell = (arm, stages[name]['seed'], value)
      if cell in found:
        raise ValueError(
            f'{found[cell]} and {name} are both {arm} of seed {cell[1]}: give '
            'stages that are other arms other roles')
      found[cell] = name
  return found


def complete(section: Mapping[str, Any], found: Mapping[Cell, str]) -> None:
  """ValueError unless all arms have the same seeds, and values of the field."""
  first, *others = section['arms']
  has = {arm: {cell[1:] for cell in found if cell[0] == arm}
         for arm in section['arms']}
  for arm in others:
    odd = sorted(has[first] ^ has[arm], key=repr)
    if odd:
      seed, value = odd[0]
      lacking = arm if odd[0] in has[first] else first
      of = f', {section["tuned"]}={value!r}' if section['tuned'] else ''
      raise ValueError(f'{lacking} has no stage of seed {seed}{of}, which '
                       'another arm has: give all arms the same')
  seeds, values = ({key[i] for key in has[first]} for i in (0, 1))
  if len(has[first]) < len(seeds) * len(values):
    raise ValueError(f'{first} has not every value of {section["tuned"]} under '
                     'every seed: make the grid whole')
  if section['tuned'] and None in values:
    raise ValueError(f'{first} has no config.{section["tuned"]} to tune: list '
                     'it in the config')
  placed = [arm for arm in section['arms'] if arm in PLACED]
  if len(values) > 1 and placed:
    raise ValueError(f'stages of the role {placed[0]} are placed by their '
                     'start, one for each seed: give a grid a role of its own')


def within(
    section: Mapping[str, Any], stages: Mapping[str, Any],
    found: Mapping[Cell, str],
) -> None:
  """ValueError if the stages of an arm differ in more than seed and tuning."""
  for arm in section['arms']:
    first, *others = (
        (name, own_words(stages[name], stages))
        for cell, name in found.items() if cell[0] == arm)
    for name, config in others:
      refuse(differences(first[1], config, ('seed', section['tuned'])),
             first[0], name, 'stages of one arm differ in the seed alone')


def own_words(stage: Mapping, stages: Mapping[str, Any]) -> dict[str, Any]:
  """A stage's config; where it starts is said by role, if of its own seed."""
  def words(name):
    run, _, step = str(name).rpartition('@')
    other = stages.get(run)
    return name if other is None or other['seed'] != stage['seed'] else (
        f'{other["role"]} of the seed@{step}')

  config = stage['config']
  return config | {key: words(config.get(key, '')) for key in ('init', 'base')}


def between(
    section: Mapping[str, Any], configs: Mapping[Cell, Mapping]) -> None:
  """ValueError if arms differ in more than the treatment, or not in it."""
  treatment = section['treatment']
  for one, other in itertools.combinations(section['arms'], 2):
    for (arm, *key), config in configs.items():
      if arm != one:
        continue
      mate = configs[(other, *key)]
      brings = allowed(treatment, config, mate)
      refuse(differences(config, mate, (*brings, *LENGTH)), one, other,
             f'the treatment is {treatment}')
      kept = {k for k, *_ in differences(config, mate, ())}
      if not any(is_in(field, brings[:1]) for field in kept):
        raise ValueError(f'{one} and {other} do not differ in the treatment, '
                         f'{treatment}: nothing is compared')
  kinds = {binding.is_online(config) for config in configs.values()}
  if treatment == SFT_OR_RL and len(kinds) == 1:
    raise ValueError(f'the treatment is {SFT_OR_RL}, but all arms are '
                     f'{"RL" if True in kinds else "SFT"}: name the field that '
                     'differs, such as objective')


def allowed(treatment: str, one: Mapping, other: Mapping) -> tuple[str, ...]:
  """What may differ between two arms; the first is the treatment itself."""
  alike = binding.is_online(one) == binding.is_online(other)
  if treatment == SFT_OR_RL and alike:
    treatment = 'objective'
  return BRINGS.get(treatment, (treatment,))


def matched(
    section: Mapping[str, Any], configs: Mapping[Cell, Mapping],
) -> None:
  """ValueError where configs say that what is to be matched cannot be."""
  matching = section['matching']
  needs = ['id', *([section['chosen_by']] if section['tuned'] else [])]
  for (arm, *_), config in configs.items():
    for name in needs:
      if name not in config['evals']:
        raise ValueError(f'{arm} has no evals.{name}: arms are compared by id '
                         'and ood, and chosen by chosen_by')
    if matching == 'kl' and not config['evals']['id'].get('kl'):
      raise ValueError(f'{arm} measures no KL: set evals.id.kl to a number of '
                       'tasks')
    if matching in ('tokens', 'flops') and config['log']['every'] != 1:
      raise ValueError(f'{arm} has log.every={config["log"]["every"]}: '
                       f'{matching} are the sum of what each step logged, so '
                       'set it to 1')
  counts = {arm: spent.updates(config) for (arm, *_), config in configs.items()}
  first = section['arms'][0]
  for arm, count in counts.items():
    if matching == 'updates' and count != counts[first]:
      raise ValueError(
          f'{first} makes {counts[first]} updates and {arm} {count} (num_steps '
          '* passes.epochs * passes.minibatches): change num_steps')


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


def differences(
    one: Mapping, other: Mapping, excused: tuple[str, ...],
) -> list[tuple[str, Any, Any]]:
  """(field, value, other value) of what differs and is not excused."""
  a, b = fields(one), fields(other)
  return [(key, a.get(key, 'not set'), b.get(key, 'not set'))
          for key in sorted({*a, *b})
          if a.get(key, ABSENT) != b.get(key, ABSENT)
          and not is_in(key, excused)]


ABSENT = object()


def refuse(
    found: list[tuple[str, Any, Any]], one: str, other: str, why: str) -> None:
  """ValueError that names the first field, its two values and the others."""
  if not found:
    return
  (field, a, b), *more = found
  also = f' (so do {", ".join(key for key, *_ in more)})' if more else ''
  raise ValueError(f'{one} and {other} differ in {field}, {a!r} and {b!r}'
                   f'{also}, but {why}: make it the same')


def is_in(field: str, sections: tuple[str, ...]) -> bool:
  """Whether a dotted field is one of these, or in one."""
  return any(field == name or field.startswith(f'{name}.')
             for name in sections if name)


def fields(config: Mapping, where: str = '') -> dict[str, Any]:
  """'optimizer.learning_rate' -> value, of all sections."""
  found = {}
  for key, value in config.items():
    found |= (fields(value, f'{where}{key}.') if isinstance(value, Mapping)
              else {f'{where}{key}': value})
  return found
