"""Controlled comparisons: what differs beside the treatment is an error."""
import pytest

from rlft import arms, binding, spent, study
from rlft import config as door
from tests import tiny

HELD = dict(split='held_out', held_out=0.25, validation=0.25)


def arm(objective, seed, **optimizer):
  """RL on groups, with evaluations that share no hand with one another."""
  config = tiny.rl_config(num_steps=4)
  config.seed = seed
  config.critic = objective == 'ppo'
  config.objective, config.advantages = dict(name=objective), {}
  config.optimizer = dict(learning_rate=1e-3, warmup_steps=0) | optimizer
  config.evals = dict(
      id=dict(env=tiny.game(**HELD), n=40, kl=8),
      tune=dict(env=tiny.game(**HELD | dict(split='validation')), n=40))
  config.log.every = 1
  return config


def study_of(*stages, **section):
  """A study of (role, seed, config); each arm starts from its seed's SFT."""
  made = {}
  for seed in sorted({s for _, s, _ in stages}):
    made[f'seed{seed}/start'] = study.stage(
        'start', arm('ppo', seed), seed=seed)
  for n, (role, seed, config) in enumerate(stages):
    config.init = config.base = f'seed{seed}/start@4'
    made[f'seed{seed}/{role}_{n}'] = study.stage(
        role, config, seed=seed, from_step=4 if role == 'rl' else None)
  return arms.declare(study.of('toy', made), **dict(
      treatment='objective', arms=('grpo', 'rloo'), matching='updates',
  ) | section)


def two(**section):
  return study_of(*(
      (name, seed, arm(name, seed)) for name in ('grpo', 'rloo')
      for seed in (0, 1)), **section)


def grid(rates=(1e-4, 1e-3), **section):
  return study_of(*(
      (name, seed, arm(name, seed, learning_rate=rate))
      for name in ('grpo', 'rloo') for seed in (0, 1) for rate in rates),
      **dict(tuned='optimizer.learning_rate', chosen_by='tune') | section)


def config_of(made, role, seed=0):
  return next(s.config for s in made.stages.values()
              if s.role == role and s.seed == seed)


def test_arms_that_differ_in_the_treatment_alone_are_let_through():
  arms.check(two())
  arms.check(two(matching='kl'))
  arms.check(grid(matching='tokens'))
  door.validate(two())
  plain = two()
  del plain.comparison
  arms.check(plain)  # a study without one


def test_what_a_treatment_brings_may_differ_and_nothing_else():
  made = study_of(*((name, seed, arm(name, seed)) for name in ('ppo', 'grpo')
                    for seed in (0, 1)), arms=('ppo', 'grpo'))
  for seed in (0, 1):
    with made.unlocked():
      config_of(made, 'ppo', seed).optimizer.critic_learning_rate = 5e-3
      config_of(made, 'ppo', seed).num_steps = 2  # as far as updates ...
      config_of(made, 'ppo', seed).evaluate.every = 1
  with pytest.raises(ValueError, match='ppo makes 8 updates and grpo 16'):
    arms.check(made)
  made.comparison.matching = 'kl'  # ... are not what is matched
  arms.check(made)


@pytest.mark.parametrize('field, value, other', [
    ('optimizer.learning_rate', 0.5, 0.001),
    ('experience.group', 4, 2), ('passes.epochs', 3, 2),
    ('evals.id.n', 41, 40), ('env.held_out', 0.3, 'not set'),
    ('limits.max_kl', 1.0, 0.0), ('model.dtype', 'bfloat16', 'float32'),
    ('tokenizer', 'hf:x', 'asset:points24'), ('lora.rank', 2, 0),
    ('init', 'asset:x', 'seed0/start@4'),
    ('optimizer.eps', 1e-3, 'not set')])
def test_any_other_difference_is_named_with_both_values(field, value, other):
  made = two()
  *sections, last = field.split('.')
  at = config_of(made, 'rloo')
  for name in sections:
    at = at[name]
  with made.unlocked(), made.ignore_type():
    at[last] = value
    # the same under the other seed: what differs is the arm, not the seed
    at = config_of(made, 'rloo', 1)
    for name in sections:
      at = at[name]
    at[last] = value.replace('seed0', 'seed1') if field == 'init' else value
  with pytest.raises(ValueError, match='differ in') as caught:
    arms.check(made)
  text = str(caught.value)
  assert text.startswith(f'comparison: grpo and rloo differ in {field}, ')
  assert repr(value) in text and repr(other) in text
  assert 'the treatment is objective' in text and '\n' not in text


def test_all_fields_that_differ_are_named():
  made = two()
  with made.unlocked():
    for seed in (0, 1):
      config_of(made, 'rloo', seed).experience.update(group=4, prompts=2)
  with pytest.raises(ValueError, match=r'experience\.group, 2 and 4 \(so do '
                     r'experience\.prompts\)'):
    arms.check(made)


def test_one_field_is_a_treatment_too():
  made = study_of(*((role, 0, arm('grpo', 0, learning_rate=rate))
                    for role, rate in (('slow', 1e-4), ('fast', 1e-3))),
                  arms=('slow', 'fast'), treatment='optimizer.learning_rate')
  arms.check(made)
  made.comparison.treatment = 'optimizer.weight_decay'
  with pytest.raises(ValueError, match=r'slow and fast differ in optimizer\.le'
                     r'arning_rate, 0\.0001 and 0\.001, but the treatment is'):
    arms.check(made)
  made.comparison.treatment = 'optimizer'  # a whole section
  arms.check(made)


def test_arms_that_do_not_differ_compare_nothing():
  made = study_of(*((role, 0, arm('grpo', 0)) for role in ('a', 'b')),
                  arms=('a', 'b'))
  with pytest.raises(ValueError, match='a and b do not differ in the treatm'):
    arms.check(made)


def sft(seed):
  config = tiny.sft_config(num_steps=16)
  config.seed, config.log.every = seed, 1
  config.evals = arm('grpo', seed).evals
  return config


def sft_and_rl(*others, **section):
  return study_of(
      ('sft', 0, sft(0)), ('rl', 0, arm('grpo', 0)), *others,
      **dict(arms=('sft', 'rl'), treatment='sft_or_rl') | section)


def test_sft_or_rl_brings_experience_and_passes():
  made = sft_and_rl()
  with made.unlocked():
    config_of(made, 'sft').optimizer.learning_rate = 1e-3
  arms.check(made)  # 16 updates of SFT, 4 * 2 * 2 of RL
  with made.unlocked():
    config_of(made, 'sft').env.faces = (11, 12, 13)
  with pytest.raises(ValueError, match=r'sft and rl differ in env\.faces'):
    arms.check(made)


def test_sft_or_rl_needs_both_and_two_of_rl_differ_as_objectives_do():
  with pytest.raises(ValueError, match='all arms are RL: name the field'):
    arms.check(two(treatment='sft_or_rl'))
  made = sft_and_rl(('rloo', 0, arm('rloo', 0)), arms=('sft', 'rl', 'rloo'))
  with made.unlocked():
    config_of(made, 'sft').optimizer.learning_rate = 1e-3
  arms.check(made)
  with made.unlocked():
    config_of(made, 'rloo').experience.temperature = 2.0
  with pytest.raises(ValueError, match=r'rl and rloo differ in experience\.te'):
    arms.check(made)


def test_within_an_arm_the_seed_alone_may_differ():
  made = two()
  with made.unlocked():
    for name in ('grpo', 'rloo'):  # the same in both arms, but not in a seed
      config_of(made, name, 1).experience.group = 4
  with pytest.raises(ValueError, match=r'seed0/grpo_0 and seed1/grpo_1 differ '
                     r'in experience\.group, 2 and 4, but stages of one arm'):
    arms.check(made)


def test_starts_are_those_of_the_own_seed():
  made = two()
  with made.unlocked():
    for name in ('grpo', 'rloo'):
      config_of(made, name, 1).init = 'seed0/start@4'
  with pytest.raises(ValueError, match='differ in init'):
    arms.check(made)


def test_starts_that_have_one_role_and_seed_are_told_apart():
  made = two()
  other = study.stage('start', arm('ppo', 1), seed=1)
  with made.unlocked():
    made.stages['seed1/other'] = other
    for name in ('grpo', 'rloo'):
      config_of(made, name, 1).update(dict.fromkeys(
          ('init', 'base'), 'seed1/other@4'))
  with pytest.raises(ValueError, match='differ in base'):
    arms.check(made)


def test_kl_is_to_one_base():
  made = study_of(*((role, 0, arm('grpo', 0)) for role in ('a', 'b')),
                  arms=('a', 'b'), treatment='init')
  with made.unlocked():
    for role in ('a', 'b'):
      config_of(made, role).update(init=f'asset:{role}', base='')
  arms.check(made)
  made.comparison.matching = 'kl'
  with pytest.raises(ValueError, match="KL of a is to 'asset:a' and that of b "
                     "to 'asset:b': set the same base"):
    arms.check(made)


def test_what_the_report_places_by_its_start_has_one():
  made = sft_and_rl()
  with made.unlocked():
    config_of(made, 'sft').optimizer.learning_rate = 1e-3
    made.stages['seed0/rl_1'].from_step = None
  with pytest.raises(ValueError, match='seed0/rl_1 has no from_step, by which'):
    arms.check(made)


def seldom(config):
  config.evaluate.every = 2
  config.evals.id.steps = (0, 4)


def spoiled(**section):
  def make():
    return two(**section)
  return make


def short_of_a_seed():
  return study_of(('grpo', 0, arm('grpo', 0)), ('rloo', 0, arm('rloo', 0)),
                  ('rloo', 1, arm('rloo', 1)))


def twice():
  return study_of(*((name, 0, arm(name, 0))
                    for name in ('grpo', 'grpo', 'rloo')))


def changed(change, base=two, **section):
  def make():
    made = base(**section)
    with made.unlocked():
      for name in ('grpo', 'rloo'):
        for stage in made.stages.values():
          if stage.role == name:
            change(stage.config)
    return made
  return make


def uneven():
  return study_of(*((name, seed, arm(name, seed, learning_rate=rate))
                    for name in ('grpo', 'rloo')
                    for seed, rate in ((0, 1e-3), (0, 1e-4), (1, 1e-3))),
                  tuned='optimizer.learning_rate', chosen_by='tune')


def other_grid():
  return study_of(*((name, 0, arm(name, 0, learning_rate=rate))
                    for name, rates in (('grpo', (1e-3, 1e-4)),
                                        ('rloo', (1e-3, 1e-5)))
                    for rate in rates),
                  tuned='optimizer.learning_rate', chosen_by='tune')


def falling(**optimizer):
  """Arms of 4 and 8 updates of two steps, of one schedule."""
  def make():
    configs = {name: arm(name, 0, **optimizer) for name in ('grpo', 'rloo')}
    configs['rloo'].num_steps = 8
    return study_of(*((name, 0, config) for name, config in configs.items()),
                    matching='tokens')
  return make


def test_a_schedule_ends_at_one_step_in_all_arms():
  arms.check(falling(schedule='cosine', horizon=16)())
  arms.check(falling(schedule='constant')())


REFUSED = [
    (falling(schedule='cosine'),
     'rate of grpo falls over 16 updates and that of rloo over 32: set opt'),
    (spoiled(matching='time'), "no matching 'time'; known: updates, tokens, "),
    (spoiled(arms=('grpo',)), 'arms are two or more roles'),
    (spoiled(arms=('grpo', 'grpo')), 'arms are two or more roles'),
    (spoiled(arms=('grpo', 'ppo')),
     'no run has the role ppo; known: grpo, rloo, start'),
    (spoiled(tolerance=0.0), 'tolerance is 0.0'),
    (spoiled(tuned='optimizer.learning_rate'), 'set both, or neither'),
    (spoiled(tuned='seed', chosen_by='id'), 'evals.id is reported'),
    (spoiled(tuned='optimizer.beta', chosen_by='tune'),
     'grpo has no config.optimizer.beta to tune'),
    (short_of_a_seed, 'grpo has no stage of seed 1, which another arm has'),
    (twice, r'grpo_0 and seed0/grpo_1 are both grpo of seed 0: give stages'),
    (uneven, 'grpo has not every value of optimizer.learning_rate under every'),
    (other_grid, 'rloo has no stage of seed 0, optimizer.learning_rate=0.0001'),
    (changed(lambda c: c.evals.__delitem__('id')), 'grpo has no evals.id'),
    (changed(lambda c: c.evals.__delitem__('tune'), grid),
     'grpo has no evals.tune'),
    (changed(lambda c: c.evals.id.update(kl=0), matching='kl'),
     'grpo measures no KL'),
    (changed(lambda c: c.update(seed=7)),
     r'grpo has config\.seed=7 for the seeds 0 and 1: give each its own'),
    (changed(lambda c: c.evals.tune.update(steps=(0,)), grid),
     r'grpo has no evals\.tune at step 4, where it may be compared: add'),
    (changed(lambda c: c.evals.id.update(steps=(0,))),
     r'grpo has no evals\.id at step 4'),
    (changed(seldom, matching='kl'), r'grpo has no evals\.id at step 2'),
    (changed(lambda c: c.log.update(every=2), matching='flops'),
     'grpo has log.every=2: flops are the sum'),
    (changed(lambda c: c.evals.tune.env.update(split='held_out'), grid),
     r'evals\.tune shares \d+ problems with evals\.id: give it'),
    (lambda: study_of(*(('rl', 0, arm('grpo', 0, learning_rate=rate))
                        for rate in (1e-4, 1e-3)),
                      *(('rloo', 0, arm('rloo', 0, learning_rate=rate))
                        for rate in (1e-4, 1e-3)), arms=('rl', 'rloo'),
                      tuned='optimizer.learning_rate', chosen_by='tune'),
     'the role rl are placed by their start'),
]


@pytest.mark.parametrize('make, complaint', REFUSED)
def test_a_comparison_that_is_none_is_refused(make, complaint):
  with pytest.raises(ValueError, match=f'^comparison: .*{complaint}') as caught:
    arms.check(make())
  assert '\n' not in str(caught.value)


def test_an_unknown_key_and_a_missing_one_are_named():
  made = two()
  with made.unlocked():
    made.comparison.colour = 1
  with pytest.raises(ValueError, match='comparison takes no colour; known: '):
    arms.check(made)
  with made.unlocked():
    del made.comparison.colour, made.comparison.arms
  with pytest.raises(ValueError, match='comparison needs arms'):
    arms.check(made)


def test_updates_are_counted_in_optimizer_steps():
  config = tiny.rl_config(num_steps=5).to_dict()  # 2 epochs of 2 minibatches
  assert spent.updates(config) == 20 and spent.updates(config, 3) == 12
  assert spent.updates(tiny.sft_config(7).to_dict()) == 7


def test_tokens_are_those_of_every_step_or_an_error():
  rows = [dict(step=s, tokens=10.0 * s) for s in (1, 2, 3)]
  assert spent.tokens(rows, 2) == 30 and spent.tokens(rows, 0) == 0
  with pytest.raises(ValueError, match='tokens of step 4 were not logged'):
    spent.tokens(rows, 4)


def test_flops_by_hand():
  # sampling 2; scoring by policy and reference 4, two epochs of 6
  assert spent.flops_per_token(arm('grpo', 0).to_dict()) == (2, 4, 2 * 6)
  # the critic: scoring 2, two epochs of 6
  assert spent.flops_per_token(tiny.rl_config().to_dict()) == (2, 6, 2 * 12)
  assert spent.flops_per_token(tiny.sft_config().to_dict()) == (0, 0, 6)
  lora = tiny.lora_config()
  assert lora.critic  # whole, beside adapters
  assert spent.flops_per_token(lora.to_dict()) == (2, 6, 2 * (4 + 6))


def test_what_was_sampled_and_dropped_is_not_learned():
  config = arm('grpo', 0).to_dict()  # 4 prompts
  rows = [dict(step=1, tokens=10.0), dict(step=2, tokens=40.0, groups_drawn=16)]
  assert spent.flops(rows, 1, config) == 10 * 18
  assert spent.flops(rows, 2, config) == 10 * 18 + 40 * (2 + 16 / 4)
  assert spent.flops([rows[0], {}, *rows], 1, config) == 10 * 18  # once each
  # one group sampled and scored, and learned from with three of before
  replayed = [dict(step=1, tokens=10.0, groups_drawn=1)]
  assert spent.flops(replayed, 1, config) == 10 * (2 + 4 + 4 * 12)
  with pytest.raises(ValueError, match='tokens of step 3'):
    spent.flops(rows, 3, config)


def test_whether_a_run_is_online_is_told_of_a_dict_too():
  for config, online in ((tiny.sft_config(), False), (tiny.rl_config(), True)):
    assert binding.is_online(config) is online
    assert binding.is_online(config.to_dict()) is online
