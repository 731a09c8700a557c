"""The section `decoding` of a run and of its evaluations."""
import pytest

from rlft import binding, check, episodes
from rlft import config as door
from tests import tiny

RULE = dict(name='truncated', top_k=5, top_p=0.8)
OTHER = dict(name='truncated', top_p=0.5)


def rl(**decoding):
  config = tiny.rl_config()
  config.decoding = decoding
  return config


@pytest.fixture
def asked(monkeypatch):
  """The rules of the completers that are made, in their order."""
  rules, make = [], episodes.completer

  def noted(*args, **options):
    rules.append(dict(options['decoding']))
    return make(*args, **options)

  monkeypatch.setattr(episodes, 'completer', noted)
  return rules


def test_rollouts_and_sampled_evaluations_draw_under_the_rule(asked):
  config = rl(**RULE)
  greedy = config.evals.id.to_dict()
  sampled = {**greedy, 'temperature': 0.7}
  config.evals = dict(
      greedy=greedy, sampled=sampled, other={**sampled, 'decoding': OTHER},
      free={**sampled, 'decoding': {}})
  door.validate(config)
  check.run(config)
  # rollouts; free, greedy, other, sampled
  assert asked == [RULE, {}, {}, OTHER, RULE]


def test_a_run_from_before_the_section_has_no_rule(asked):
  config = rl()
  del config.decoding
  config.evals.id.temperature = 0.7
  binding.build_evaluations(config, tiny.model(), tiny.words())
  assert asked == [{}]


def test_the_keys_of_the_section_can_be_set():
  config = rl(**RULE)
  door.override(config, 'decoding.top_p', '0.9')
  assert config.decoding.top_p == 0.9
  door.override(config, 'decoding.top_k', '-1')
  with pytest.raises(ValueError, match=r'config\.decoding\.top_k is -1: give'):
    door.validate(config)


@pytest.mark.parametrize('section, complaint', [
    (dict(name='top'), r"^config\.decoding: no 'top' in rlft/decoding; known"),
    (dict(top_k=3), r"^config\.decoding: no '' in rlft/decoding; known: "),
    (RULE | dict(top_p=0.0), r'^config\.decoding: top_p is 0\.0: give'),
    (RULE | dict(k=3), r'^config\.decoding: rule\(\) of .* takes no k; known'),
])
def test_what_is_wrong_is_told_before_a_run(section, complaint):
  with pytest.raises(ValueError, match=complaint):
    check.run(rl(**section))


@pytest.mark.parametrize('section, complaint', [
    (dict(decoding=OTHER), 'of id changes nothing at temperature 0'),
    (dict(decoding=3, temperature=1.0), 'evals.id.decoding is 3: write dict'),
    (dict(decoding=dict(name='x'), temperature=1.0), 'evals.id.decoding: no '),
])
def test_what_is_wrong_with_an_evaluations_own_is_told(section, complaint):
  config = rl()
  config.evals.id = {**config.evals.id.to_dict(), **section}
  with pytest.raises(ValueError, match=complaint):
    check.run(config)


def test_a_rule_that_nothing_draws_under_is_refused():
  config = tiny.sft_config()
  config.decoding = RULE
  with pytest.raises(ValueError, match=r'nothing reads config\.decoding: '):
    check.run(config)
  sampled = {**config.evals.id.to_dict(), 'temperature': 0.7}
  config.evals.id = {**sampled, 'decoding': OTHER}
  with pytest.raises(ValueError, match=r'nothing reads config\.decoding: '):
    check.run(config)
  config.evals.id = sampled
  check.run(config)


def test_it_is_not_a_keyword_of_the_experience():
  config = rl()
  config.experience.decoding = RULE
  with pytest.raises(ValueError, match=r'experience\.decoding follows from'):
    check.run(config)
