"""The parts of the benchmark of RL that no peer is needed for."""
import pytest

from rlft import tokenizer, weights
from rlft.ops import trees
from tests.bench import models, rl, rl_task


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
  monkeypatch.setitem(models.SHAPES, 'tiny', (8, 2, 2, 1, 16, 40))


def test_what_is_written_is_read_here(tmp_path):
  rl_task.write(tmp_path, 'tiny')
  words = tokenizer.load(str(tmp_path / 'tokenizer.json'))
  assert (words.pad, words.bos, words.end) == (
      rl_task.PAD, rl_task.BOS, rl_task.END)
  assert words.encode('7 39 4') == [7, 39, 4]
  found = trees.named(weights.load(f'hf:{tmp_path}'))
  made = rl_task.weights('tiny')
  assert sum(x.size for x in found.values()) == sum(
      x.size for x in made.values())


def test_prompts_have_their_length_and_the_first_are_the_same():
  few, more = rl_task.prompts('tiny', 2), rl_task.prompts('tiny', 5)
  assert few == more[:2]
  assert {len(text.split()) + 1 for text in more} == {rl_task.PROMPT}


def test_the_reward_is_the_share_of_even_words():
  assert rl_task.reward('4 7 6 </s> 8') == 0.75
  assert rl_task.reward('') == 0.0


def test_a_step_is_the_sum_of_its_phases(monkeypatch):
  cpu = iter([0.0, 1.0, 3.0, 7.0, 7.0])
  monkeypatch.setattr(rl_task.time, 'process_time', lambda: next(cpu))
  clock = rl_task.Clock()
  clock.lap('rollout')
  clock.lap('score')
  clock.step()
  (row,) = clock.steps
  assert [row[k] for k in (*rl_task.PHASES, 'cpu')] == [1.0, 2.0, 4.0, 7.0]


def told(cpu, log_prob=-3.0):
  row = dict(rollout=cpu / 2, score=cpu / 4, update=cpu / 4, cpu=cpu, wall=cpu)
  return dict(log_prob=log_prob, steps=[row])


def test_ratios_are_of_medians_and_a_peer_that_fails_is_left_out(
    monkeypatch, capsys):
  says = {'ours': iter([told(2.0), told(4.0), told(2.0)]),
          'trl': iter([told(3.0), told(3.0), told(9.0)]),
          'tunix': iter([None])}
  monkeypatch.setattr(rl, 'asked', lambda engine, *_: next(says[engine]))
  rl.table('tiny', 'grpo', list(says), 3, 1)
  said = capsys.readouterr().out
  assert 'trl       3.00 CPU s' in said and '1.50 x ours' in said
  assert 'tunix' not in said


def test_engines_of_other_models_are_not_compared(monkeypatch):
  says = {'ours': told(2.0), 'trl': told(3.0, log_prob=-3.001)}
  monkeypatch.setattr(rl, 'asked', lambda engine, *_: says[engine])
  with pytest.raises(SystemExit, match='same model'):
    rl.table('tiny', 'grpo', list(says), 1, 1)
