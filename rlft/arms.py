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

from rlft import binding, differences, matchings, parts
from rlft.matchings import Cell

SFT_OR_RL = 'sft_or_rl'
OBJECTIVE = ('objective', 'advantages', 'critic',
             'optimizer.critic_learning_rate', 'optimizer.critic_warmup_steps')
BRINGS = {  # treatment -> what may differ with it; any other: itself alone
    'objective': OBJECTIVE,
    # between an arm of SFT and one of RL; two of RL as by 'objective'
    SFT_OR_RL: (*OBJECTIVE, 'experience', 'passes', 'decoding', 'limits'),
}
LENGTH = ('num_steps', 'evaluate', 'checkpoint', 'log')
PLACED = ('sft', 'rl', 'rl_kl', 'sft_mixed', 'base')  # one stage a start
BRANCHES = ('rl', 'rl_kl')  # roles whose start the report has to know


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
        name: dict(
            role=stage.role, seed=stage.seed, from_step=stage.from_step,
            config=stage.config.copy_and_resolve_references().to_dict())
        for name, stage in study.stages.items()}
    found = cells(section, stages)
    complete(section, found)
    placed(section, stages, found)
    configs = {cell: stages[name]['config'] for cell, name in found.items()}
    within(section, stages, found)
    between(section, configs)
    matchings.possible(section, configs)
    if section['tuned']:
      matchings.apart(section, next(iter(configs.values())))


def plain(
    *, treatment: str, arms: tuple | list, matching: str, tuned: str = '',
    chosen_by: str = '', tolerance: float | int = 0.05,
) -> dict[str, Any]:
  """The section as a dict; ValueError for what it cannot be."""
  if matching not in matchings.MATCHING:
    raise ValueError(
        f'no matching {matching!r}; known: {", ".join(matchings.MATCHING)}')
  if len(arms) < 2 or len(set(arms)) < len(arms):
    raise ValueError(f'arms are two or more roles of stages, not {arms!r}')
  if bool(tuned) != bool(chosen_by):
    raise ValueError('tuned names a field and chosen_by the evaluation that '
                     'its value is chosen by: set both, or neither')
  if chosen_by in matchings.REPORTED:
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

  `stages`: name -> dict(role, seed, from_step, config). ValueError where two
  stages are one cell, or where an arm has none that is a run.
  """
  found: dict[Cell, str] = {}
  for arm in section['arms']:
    mine = [name for name, stage in stages.items()
            if stage['role'] == arm and 'objective' in stage['config']]
    if not mine:
      roles = dict.fromkeys(s['role'] for s in stages.values())
      raise ValueError(f'no run has the role {arm}; known: {", ".join(roles)}')
    for name in mine:
      value = differences.fields(stages[name]['config']).get(section['tuned'])
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


def placed(
    section: Mapping[str, Any], stages: Mapping[str, Any],
    found: Mapping[Cell, str],
) -> None:
  """ValueError for stages that the report would not show."""
  values = {value for *_, value in found}
  for (arm, *_), name in found.items():
    if arm in PLACED and len(values) > 1:
      raise ValueError(f'stages of the role {arm} are placed by their start, '
                       'one for each seed: give a grid a role of its own')
    if arm in BRANCHES and stages[name]['from_step'] is None:
      raise ValueError(f'{name} has no from_step, by which the report places '
                       f'the role {arm}: set it, or give it another role')


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
      differences.refuse(
          differences.between(first[1], config, ('seed', section['tuned'])),
          first[0], name, 'stages of one arm differ in the seed alone')
    drawn: dict[int, int] = {}  # what a run draws from -> the stage's seed
    for (role, seed, _), name in found.items():
      own = stages[name]['config']['seed']
      if role == arm and drawn.setdefault(own, seed) != seed:
        raise ValueError(f'{arm} has config.seed={own} for the seeds '
                         f'{drawn[own]} and {seed}: give each its own')


def own_words(stage: Mapping, stages: Mapping[str, Any]) -> dict[str, Any]:
  """A stage's config; where it starts is said by role, if of its own seed.

  And if no other stage of that seed is said so.
  """
  def place(one):
    return one['seed'], one['role'], one['from_step']

  def words(name):
    run, _, step = str(name).rpartition('@')
    other = stages.get(run)
    if other is None or other['seed'] != stage['seed'] or [
        *map(place, stages.values())].count(place(other)) > 1:
      return name
    return f'{place(other)[1:]} of the seed@{step}'

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
      differences.refuse(
          differences.between(config, mate, (*brings, *LENGTH)), one, other,
          f'the treatment is {treatment}')
      kept = {k for k, *_ in differences.between(config, mate, ())}
      if not any(differences.is_in(field, brings[:1]) for field in kept):
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
