"""The papers' configs, at their own size and as smoke (`make smoke`)."""
import itertools

import pytest

from rlft import check, inherit
from rlft import config as door

FILES = {'qwen2_5_7b': ('qwen2.5-7b', 'qwen2_chat'),
         'llama3_2_11b': ('llama-3.2-11b-vision', 'llama3_chat')}
MODES = ('', 'faithful')
ALL = list(itertools.product(FILES, MODES))


def load(name, *words):
  return door.load(
      f'configs/general_points/{name}.py:{",".join(filter(None, words))}', {})


@pytest.mark.parametrize('name, mode', ALL)
def test_a_paper_at_its_own_size_is_sound(name, mode):
  """With its preset in the place of a directory that is not here."""
  preset, chat = FILES[name]
  config = load(name, mode)
  sft = config.stages.sft.config
  assert sft.init.startswith('hf:') and sft.tokenizer == sft.init
  with config.unlocked():
    for stage in config.stages.values():
      for evaluation in stage.config.get('evals', {}).values():
        evaluation.n = 4
    sft.init, sft.model.preset = '', preset
    for stage in config.stages.values():
      if 'tokenizer' in stage.config:
        stage.config.tokenizer = f'asset:{chat}'
  inherit.fill(config)
  check.study(config)
  assert config.stages.restoration.config.model.preset == preset


@pytest.mark.parametrize('name, mode', ALL[:1])
def test_the_smoke_of_a_paper_is_sound(name, mode):
  config = load(name, mode, 'smoke')
  inherit.fill(config)
  check.study(config)


def test_what_the_modes_differ_in():
  """Rows of the table of modes, each by hand."""
  one, other = (load('llama3_2_11b', mode).stages for mode in MODES)
  assert other.sft.config.env.mode == 'faithful'
  assert (one.sft.config.env.split, other.sft.config.env.split) == (
      'train', None)
  assert other.sft.config.evals.id.n == 234
  assert one.sft.config.evals.id.get('temperature', 0.0) == 0.0
  assert list(other) != list(one) and 'rl_kl' in one
  rl = [x.rl_1100.config for x in (one, other)]
  assert [x.objective.name for x in rl] == ['turn_ppo', 'turn_ppo_published']
  assert [x.experience.skip_tokens for x in rl] == [0, 2]
  for stages in (one, other):
    section = stages.sft.config.optimizer
    assert (section.b2, section.eps, section.warmup_steps) == (.98, 1e-7, 376)
    assert stages.rl_1100.config.advantages.discount == 0.9


def test_one_mode_at_a_time():
  with pytest.raises(ValueError, match='write one of them'):
    load('qwen2_5_7b', 'faithful', 'corrected')
  with pytest.raises(ValueError, match='no variant huge'):
    load('qwen2_5_7b', 'huge')


def test_a_missing_directory_is_named():
  with pytest.raises(ValueError, match=r'models/Qwen2\.5-7B.*is missing'):
    inherit.fill(load('qwen2_5_7b'))
