"""The door: what is wrong with a config is said before anything is done."""
import json
from pathlib import Path

import pytest

from configs.general_points import rl
from rlft import arms, check, rows
from rlft import config as door
from rlft.envs import general_points
from tests import tiny
from tests.tiny import game

FILE = '''
import tests.tiny
from rlft import arms, check
from rlft import config as door

def get_config(variant=''):
  words = door.variants(variant, ('smoke', 'long'))
  config = tests.tiny.rl_config()
  config.num_steps = 8 if 'long' in words else 4
  config.evaluate.steps = (0, 2)
  config.advantages.whiten = True
  config.objective.value_clip = 0.2
  config.advantages.any = None
  return config
'''


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
  """Gives up a hopeless hand early."""
  monkeypatch.setattr(general_points, 'DRAWS', 60)


@pytest.fixture
def file(tmp_path):
  path = tmp_path / 'toy.py'
  path.write_text(FILE)
  return str(path)


def test_a_file_becomes_a_locked_config(file):
  config = door.load(file, {})
  assert config.num_steps == 4
  with pytest.raises(AttributeError):
    config.nonsense = 1
  assert door.load(f'{file}:smoke,long', {}).num_steps == 8


@pytest.mark.parametrize('key, text, value', [
    ('num_steps', '6', 6), ('optimizer.learning_rate', '1e-5', 1e-5),
    ('optimizer.learning_rate', '1', 1.0), ('init', 'runs/a@3', 'runs/a@3'),
    ('objective.name', 'sft', 'sft'), ('critic', 'False', False),
    ('evaluate.steps', '0,2,4', (0, 2, 4)), ('evaluate.steps', '4', (4,)),
    ('evaluate.steps', '()', ()), ('evals.id.env.split', 'train', 'train'),
    ('objective.value_clip', 'None', None)])
def test_an_override_has_the_type_of_what_it_replaces(file, key, text, value):
  config = door.load(file, {key: text})
  for part in key.split('.'):
    config = config[part]
  assert config == value and type(config) is type(value)


@pytest.mark.parametrize('key, text, complaint', [
    ('num_stpes', '6', r'no config\.num_stpes: .* did you mean num_steps\?'),
    ('optimiser.learning_rate', '1', 'did you mean optimizer'),
    ('objective.clpi', '1', r'known here: clip, .*did you mean clip'),
    ('zzz', '1', r'no config\.zzz: known here: advantages, .*, tokenizer$'),
    ('num_steps', '1.5', r"config\.num_steps='1\.5': give a whole number"),
    ('num_steps', 'many', r"num_steps='many': give a whole number"),
    ('num_steps', '__import__("os")', 'give a whole number'),
    ('optimizer.learning_rate', 'fast', "rate='fast': give a number"),
    ('evaluate.steps', 'all', "='all': give values with commas in between"),
    ('critic', '3', "critic='3': give True or False"),
    ('objective.value_clip', 'no', "clip='no': give a number"),
    ('model', 'tiny', r'config\.model is a section'),
    ('num_steps.x', '1', 'num_steps is a value, not a section'),
    ('seed', 'True', "config\\.seed='True': give a whole number"),
    ('objective.value_clip', 'False', 'give a number'),
    ('num_steps', '9' * 400, 'give a whole number'),
    ('num_steps', '0x' + 'f' * 5000, 'give a whole number'),
    ('objective.value_clip', '1' + '0' * 400, 'give a number'),
    ('objective.value_clip', '1_0or 2', 'give a number'),
    ('evaluate.steps', '{[]: 1}', 'give values with commas'),
    ('evaluate.steps', '1j, 2', 'give values with commas'),
    ('evaluate.steps', '0xffffffffffffffffffff,', 'give values with commas'),
    ('advantages.any', '{1.5: 2}', 'give a plain value'),
    ('advantages.any', '{1, 2}', 'give a plain value'),
    ('advantages.any', 'b"x"', 'give a plain value'),
    ('num\nsteps', '1', r"no key is called 'num\\nsteps'"),
    ('\ud800', '1', r"no key is called '\\ud800'")])
def test_an_override_that_makes_no_sense_is_refused(
    file, key, text, complaint):
  with pytest.raises(ValueError, match=complaint):
    door.load(file, {key: text})


@pytest.mark.parametrize('key, text', [
    ('optimizer.learning_rate', '1e999'), ('evaluate.steps', '1, 1e999'),
    ('optimizer.learning_rate', '-1e-3'),
    ('num_steps', '-1'), ('experience.prompts', '0'),
    ('experience.length', '-5'), ('evals.id.n', '0'), ('evals.id.rows', '-8'),
    ('passes.epochs', '0'), ('passes.minibatches', '-2'),
    ('evaluate.every', '-1'), ('checkpoint.keep', '-1'), ('log.every', '0'),
    ('experience.temperature', '-1.0')])
def test_numbers_that_are_no_sizes_are_refused(file, key, text):
  value = '0' if text == '0' else r'(inf|\(1, inf|-)'
  with pytest.raises(ValueError, match=(
      fr'config\.{key} is {value}.*give a (finite|whole|number)')):
    door.load(file, {key: text})


def test_from_python_a_value_is_a_value(file):
  assert door.load(file, {'num_steps': 6, 'evaluate.steps': ()}).num_steps == 6
  with pytest.raises(ValueError, match=r'num_steps=6\.5: give a whole number'):
    door.load(file, {'num_steps': 6.5})


def test_no_steps_at_all_is_a_run(file):
  assert door.load(file, {'num_steps': '0', 'evaluate.steps': '()'})


@pytest.mark.parametrize('name', ['none.py', 'toy', '.', 'toy.txt'])
def test_a_missing_file_is_named(tmp_path, name):
  with pytest.raises(ValueError, match='no config file at '):
    door.load(str(tmp_path / name), {})


@pytest.mark.parametrize('text, complaint', [
    ('x = 1', 'AttributeError: .*get_config'), ('def', 'SyntaxError: '),
    ('import zebra', "ModuleNotFoundError: No module named 'zebra'"),
    ('def get_config(variant):\n  return 1 / 0', 'ZeroDivisionError')])
def test_a_file_that_gives_no_config_is_told(tmp_path, text, complaint):
  (tmp_path / 'toy.py').write_text(text)
  with pytest.raises(ValueError, match=f'toy.py gives no config: {complaint}'):
    door.load(str(tmp_path / 'toy.py'), {})


def test_an_unknown_variant_lists_the_known(file):
  with pytest.raises(ValueError, match='no variant big; known: smoke, long'):
    door.load(f'{file}:smoke,big', {})


@pytest.mark.parametrize('spoil, complaint', [
    (lambda c: c.update(colour=1), 'no section is called colour; known: adv'),
    (lambda c: c.evaluate.update(evry=1), 'evaluate is called evry; .*every'),
    (lambda c: c.log.update(level=1), 'log is called level'),
    (lambda c: setattr(c, 'objective', 'sft'),
     r"config\.objective is 'sft': give a section"),
    (lambda c: setattr(c, 'evals', dict(id=3)), r'evals\.id is 3: give a sect'),
    (lambda c: c.evaluate.update(steps=3), r'evaluate\.steps is 3: give val'),
    (lambda c: c.__delitem__('passes'), 'section passes is missing: begin')])
def test_sections_and_their_keys_are_known(spoil, complaint):
  config = tiny.sft_config()
  with config.ignore_type():
    spoil(config)
  with pytest.raises(ValueError, match=complaint):
    door.validate(config)


def put(section, **values):
  def spoil(config):
    at = config
    for part in section.split('.'):
      at = at[part]
    at.update(values)
  return spoil


def drop(section, key):
  return lambda config: config[section].__delitem__(key)


REFUSED = [
    (put('objective', clpi=0.1), r'takes no clpi; known: .*clip'),
    (put('objective', name='pop'), r"no 'pop' in rlft/objectives; known: dapo"),
    (drop('objective', 'name'), "no '' in rlft/objectives"),
    (put('objective', kl_estimator='k9'), "no KL estimator 'k9'"),
    (put('advantages', gamma=1.0), r'takes no gamma; known: .*discount'),
    (put('advantages', kl_estimator='k9'), "no KL estimator 'k9'"),
    (put('optimizer', momentum=0.9), r'optimizer takes no momentum'),
    (put('optimizer', schedule='step'), "no schedule 'step'; known: const"),
    (drop('optimizer', 'learning_rate'), 'optimizer needs learning_rate'),
    (put('experience', promts=4), r'takes no promts; known: .*prompts'),
    (put('experience', name='pop'), "no 'pop' in rlft/experience"),
    (drop('experience', 'prompts'), 'experience needs prompts'),
    (put('experience', temperature=0.0), 'temperature 0.0 explore nothing'),
    (put('passes', epoch=2), 'passes takes no epoch; known: .*epochs'),
    (drop('passes', 'epochs'), 'passes needs epochs'),
    (put('passes', minibatches=3), '8 rows .* do not split into 3'),
    (put('env', colour=1), 'has no rule colour; known: .*faces'),
    (put('env', name='chess'), "no 'chess' in rlft/envs"),
    (put('env', split='test'), 'split'),
    (put('env', target=99, cards=2), 'no solvable hand'),
    (put('env', mode='faithfull'),
     r"config\.env: no mode 'faithfull'; known: corrected, faithful$"),
    (put('env', text='paperr'), "no text 'paperr'; known: compact, paper"),
    (put('env', deck='53'), "no deck '53'; known: independent, 52"),
    (put('env', hints='no'), "no hints 'no'; known: False, True"),
    (put('env', ensure_face=1), 'no ensure_face 1; known: False, True'),
    (put('env', faces=(10, 10)), 'faces are the values of J, Q and K'),
    (put('env', faces=10), 'faces are the values of J, Q and K'),
    (put('env', held_out='some'), 'held_out is a share between 0 and 1'),
    (put('env', cards='4'), 'a hand has 2 to 5 cards, not 4'),
    (put('evals.id.env', mode='loose'),
     r"config\.evals\.id: no mode 'loose'; known: corrected"),
    (put('experience', advantages=1), 'experience.advantages follows from'),
    (put('evals.id', base_params=1), r'evals\.id\.base_params follows from'),
    (put('model', bos=3), 'model.bos follows from'),
    (lambda c: setattr(c, 'env', {}), 'rollouts plays in config.env: set it'),
    (lambda c: c.update(critic=False), 'ppo reads the values of a critic: set'),
    (put('evals.id', colour=1), r'evals\.id takes no colour; known: .*tries'),
    (put('evals.id', tries=2, independent=2), 'not both'),
    (put('evals.id', kl=2), r'evals\.id measures kl, but from what'),
    (put('evals.id.env', target=99, cards=2), 'no solvable hand'),
    (drop('evals', 'id'), None),  # no evaluation is fine
    (lambda c: c.evals.id.__delitem__('env'), r'evals\.id needs env'),
    (put('model', preset='huge'), "no preset 'huge'"),
    (put('model', name='rnn'), "no 'rnn' in rlft/models"),
    (put('model', layers=3), 'takes no layers'),
    (lambda c: c.update(init='asset:none'), "no asset 'none'"),
    (lambda c: c.update(init='hf:gs://b/m'), 'are read on this machine: copy'),
    (lambda c: c.update(tokenizer='hf:gs://b/m'), 'are read on this machine'),
    (lambda c: c.update(init='runs/none@3'), 'no checkpoints in runs/none'),
    (lambda c: c.update(init='nothing'), 'write RUN_DIR@STEP'),
    (lambda c: c.update(base='asset:none'), "no asset 'none'"),
    (lambda c: c.update(tokenizer='asset:none'), 'no tokenizer at'),
    (put('evaluate', steps=(0, 9)), 'step 9 is beyond num_steps 4'),
    (put('evaluate', steps=(None,)), 'a step is None: give whole numbers'),
    (put('checkpoint', steps=('1', 2)), "a step is '1': give whole numbers"),
    (put('objective', clip=None), 'clip is None: give a value'),
    (put('analyses', rotatoin={}), "no 'rotatoin' in rlft/analyses; known: re"),
    (put('analyses', restoration=dict(every=1)),
     r'analyses\.restoration cannot run in the loop: it has no analyse\(\)'),
    (put('analyses', rotation=3), r'analyses\.rotation is 3: write dict'),
    (put('analyses', rotation=dict(evry=1)), r'takes no evry; known: .*draws'),
    (put('analyses', rotation=dict(before='x')), 'takes no before: a run comp'),
    (put('analyses', rotation=dict(draws=0)), 'draws=0'),
    (put('analyses', rotation=dict(select='x')), "matches select='x'; known"),
    (put('analyses', rotation=dict(steps=(9,))), 'step 9 is beyond num_steps'),
    (put('checkpoint', steps=(-1,)), 'step -1 is before'),
    (put('mesh', fsdp=3), 'mesh'),
    (put('limits', max_unjudged=0.5), r'nothing reads config\.limits\.max_unju'
     r'dged: this run measures no unjudged; set it to 0 \(it has skipped, max_k'
     r'l, max_ratio, min_entropy, max_zero_spread, max_empty, max_truncated\)'),
    (lambda c: (put('experience', verifiers=dict(workers=1))(c),
                put('limits', max_unjudged=0.5, max_zero_spread=0.9)(c)), None),
    (lambda c: (put('experience', group=1)(c),
                put('limits', max_zero_spread=0.9)(c)), 'no zero_spread'),
    (put('passes', group=2), r'config\.passes\.group follows from the rest'),
    (put('experience', prompt_length=80), 'a prompt alone has 80 tokens'),
    (put('experience', prompt_length=40), None),
    (lambda c: (put('experience', prompt_length=40)(c),
                put('passes', minibatches=8)(c)), 'no whole groups of 2'),
    (lambda c: (put('experience', rescore=False)(c),
                put('objective', importance_cap=2.0)(c)), 'importance_cap cor'),
    (put('evals.id', entropy=9), 'entropy is of 9 tasks and id has n=6: set'),
]


@pytest.mark.parametrize('spoil, complaint', REFUSED)
def test_what_a_run_would_stumble_over_is_refused(spoil, complaint):
  config = tiny.rl_config()
  spoil(config)
  if complaint is None:
    check.run(config)
    return
  with pytest.raises(ValueError, match=complaint) as caught:
    check.run(config)
  assert '\n' not in str(caught.value)


def mix(config, env=None, **rules):
  """Demonstrations of one skill, with these rules."""
  config.env = env or {}
  config.experience = dict(name='mixture', rows=4, length=36, skills=dict(
      one=dict(weight=1.0, env=dict(name='general_points') | rules)))


def test_a_mixture_is_let_through():
  config = tiny.sft_config()
  mix(config)
  check.run(config)


@pytest.mark.parametrize('spoil, complaint', [
    (put('advantages', lam=0.5), 'nothing reads the section advantages'),
    (put('experience', temperature=1.0), 'takes no temperature'),
    (put('experience', length=20), 'does not fit in 20'),
    (put('passes', epochs=1, minibatches=3), '4 rows .* into 3'),
    (put('env', target=99, cards=2), 'no solvable hand'),
    (put('env', mode='faithfull'), "no mode 'faithfull'"),
    (lambda c: setattr(c, 'env', {}), 'demonstrations plays in config.env'),
    (lambda c: c.update(critic=True), 'sft reads no critic: set config.critic'),
    (put('optimizer', critic_learning_rate=1.), 'learning_rate: sft has no'),
    (put('limits', max_zero_spread=0.9),
     r'no zero_spread; set it to 0 \(it has skipped\)'),
    (put('limits', max_kl=0.9), 'this run measures no kl; set it to 0'),
    (lambda c: mix(c, env=game()), 'nothing reads config.env: the experience'),
    (lambda c: mix(c, mode='x'), r"config\.experience\.skills\.one: no mode"),
    (lambda c: mix(c, name='point_skills', skill='sing'), "no skill 'sing'")])
def test_what_sft_would_stumble_over_is_refused(spoil, complaint):
  config = tiny.sft_config()
  check.run(config)
  spoil(config)
  with pytest.raises(ValueError, match=complaint):
    check.run(config)


def test_a_config_comes_back_from_its_file(file):
  config = door.load(file, {})
  text = door.to_json(config)
  again = door.from_dict(json.loads(text))
  assert again.to_dict() == config.to_dict()
  assert again.evaluate.steps == (0, 2)
  assert door.to_json(again) == text


SHIPPED = sorted(
    p for p in Path('configs').rglob('*.py')
    if 'def get_config' in p.read_text() and 'hf:' not in str(
        door.load(str(p), {}).to_dict()))  # these: tests/test_papers.py
SHIPPED = [*SHIPPED, *(f'configs/general_points/rl.py:{name}'
                       for name in ('replay', *rl.METHODS))]
LONG = ('learning.py',)  # studies of many runs


@pytest.mark.parametrize('path', [
    pytest.param(path, marks=[pytest.mark.slow] * str(path).endswith(LONG))
    for path in SHIPPED], ids=str)
def test_every_shipped_config_is_sound(path, tmp_path):
  """Checkpoints that a reader would have made first are let through."""
  talk = tmp_path / 'a.jsonl'
  talk.write_text('{"prompt": "1 + 1", "completion": "2"}\n')
  config = door.load(str(path), {})
  made = door.load('configs/general_points/sft.py', {})
  sections = [s.config for s in config.get('stages', {}).values()] or [config]
  with config.unlocked():
    for section in sections:
      if section.get('experience', {}).get('files') == '':
        section.experience.files = str(talk)  # they are the reader's own
      if 'mesh' in section:
        section.mesh.update(data=-1, fsdp=1, tensor=1)  # a pod has more devices
      for evaluation in section.get('evals', {}).values():
        evaluation.n = 8  # a thousand hands take their time
        evaluation.update({k: min(evaluation[k], 8) for k in (
            'kl', 'kl_fixed', 'entropy') if k in evaluation})
  if 'stages' in config:
    check.study(config)
  elif 'analysis' in config:
    check.analysis(config, known={'runs/sft': made})
  else:
    check.run(config, known={'runs/sft': made})


@pytest.mark.parametrize('name, compares', [
    ('grpo', True), ('dr_grpo', True), ('rloo', True), ('gspo', True),
    ('dapo', True), ('ppo', False), ('reinforce_pp', False),
    ('one_zero_reinforce', False), ('expert_iteration', False)])
def test_completions_that_are_compared_are_several(name, compares):
  config = tiny.rl_config()
  config.objective, config.advantages = dict(name=name), {}
  config.critic = name == 'ppo'
  if name != 'ppo':
    config.optimizer = dict(learning_rate=1e-3)
  check.objective(config)  # two of each prompt
  config.experience.group = 1
  if not compares:
    check.objective(config)
    return
  with pytest.raises(ValueError, match=r'experience\.group is 1: set it'):
    check.objective(config)


def test_one_objective_is_written_as_a_variant():
  path = 'configs/general_points/rl.py'
  with pytest.raises(ValueError, match='gspo, rloo: write one objective'):
    door.load(f'{path}:gspo,rloo', {})
  with pytest.raises(ValueError, match='dapo has a source of its own'):
    door.load(f'{path}:dapo,replay', {})
  for name, method in rl.METHODS.items():
    config = door.load(f'{path}:{name},smoke,tries', {})
    assert config.objective.name == name and not config.critic
    assert config.experience.tries == 3
    one = door.load(f'{path}:{name}', {})
    full = one.experience
    for key in {'overlong_limit', 'overlong_margin'} & set(config.advantages):
      assert config.advantages[key] == 3 * one.advantages[key]
    assert full.prompts * full.group == 256, method
  config = door.load(f'{path}:dapo', {'advantages.overlong_margin': '5'})
  assert config.advantages.overlong_margin == 5  # what is listed can be set


@pytest.mark.parametrize('name, step, stated', [
    ('grpo', 1, dict(clip=0.2, kl_coef=0.04)), ('rloo', 1, dict(clip=None)),
    ('dapo', 16, dict(clip_low=0.2, clip_high=0.28)),
    ('gspo', 4, dict(clip_low=3e-4, clip_high=4e-4))])
def test_what_the_papers_set(name, step, stated):
  config = door.load(f'configs/general_points/rl.py:{name}', {})
  assert config.passes.epochs * config.passes.minibatches == step
  assert config.objective.to_dict() | stated == config.objective.to_dict()


def test_the_learning_study_shares_all_but_the_objective():
  config = door.load('configs/general_points/learning.py', {})
  assert len(config.stages) == 4 * 3 * 3
  assert config.comparison.arms == ('ppo', 'grpo', 'rloo', 'dr_grpo')
  smoke = door.load('configs/general_points/learning.py:smoke', {})
  arms.check(smoke)
  with smoke.unlocked():
    smoke.stages['grpo/rate1e-04_seed0'].config.experience.group = 8
  with pytest.raises(ValueError, match=r'ppo and grpo differ in experience\.'):
    arms.check(smoke)


@pytest.mark.parametrize('mesh, section, passes, complaint', [
    (dict(data=8), {}, {}, None),
    (dict(data=2, fsdp=2, tensor=2), {}, dict(minibatches=4), None),
    (dict(fsdp=3), {}, {}, 'there are 8 devices, which do not split so'),
    (dict(data=16), {}, {}, 'there are 8 devices, which are fewer'),
    (dict(data=8), {}, dict(minibatches=4), '4 rows of a minibatch do not spl'),
    (dict(data=8), {}, dict(microbatches=4), '4 rows of a microbatch do not s'),
    (dict(data=8), dict(prompts=6), {}, '12 rows of a batch do not split over'),
    (dict(data=8), dict(slots=4), {}, '4 rows of experience.slots do not spl'),
    (dict(data=8), dict(prompt_length=30), {}, None),
    (dict(data=8), dict(prompt_length=30), dict(minibatches=2),
     '4 rows of a microbatch, one for each group, do not split over 8')])
def test_rows_split_over_the_devices_of_a_mesh(
    mesh, section, passes, complaint):
  config = tiny.rl_config()
  config.mesh.update(mesh)
  config.experience.update(dict(prompts=8, group=2) | section)
  config.passes.update(dict(minibatches=1) | passes)
  if complaint is None:
    rows.split(config, 8)
    return
  with pytest.raises(ValueError, match=complaint):
    rows.split(config, 8)
