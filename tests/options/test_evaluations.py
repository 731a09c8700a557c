"""Every keyword of an evaluation changes its row, its samples or its steps."""
import pytest

from rlft import episodes, evaluate
from tests import options, tiny
from tests.options import Beside

GIVEN = ('base_params',)  # by the run, as are the arguments before the star
SPEED = ('rows', 'slots', 'verifiers')  # change no number: tests of their own
SAMPLED = dict(temperature=1.0)
BASE = dict(env=tiny.game(split='held_out'), n=6, rows=6, max_new_tokens=6)
OTHER = dict(
    env=tiny.game(split='train'), n=5, seed=1, tries=2,
    independent=Beside(2, SAMPLED), temperature=1.0, max_new_tokens=3,
    decoding=Beside((('name', 'truncated'), ('top_k', 2)), SAMPLED), nll=True,
    kl=3, kl_fixed=3, entropy=3, keep=2, steps=(4,),
    against_independent=Beside(True, dict(tries=2, temperature=1.0)))


def told(**given):
  params = {'policy': tiny.noised(tiny.initialised()['policy'], 0.2)}
  made = evaluate.make('id', tiny.model(), tiny.words(), **BASE | given,
                       base_params=tiny.initialised())
  row, samples = made.run(params)
  for clock in ('completions_per_second', 'seconds'):  # never twice the same
    del row[clock]
  return row, samples, sorted(made.steps)


PARTS = [options.Part(
    'evaluate', options.keywords(evaluate.make, (*GIVEN, *SPEED)), told,
    OTHER)]


@pytest.mark.slow
@pytest.mark.parametrize('part, word', options.cases(PARTS))
def test_every_keyword_does_something(part, word):
  options.check(part, word)


@pytest.mark.slow
def test_what_is_repeated_is_the_same():
  """Or a difference would say nothing."""
  assert not options.differs(told(), told())


@pytest.mark.slow
def test_rows_and_slots_change_how_it_is_sampled_and_no_row(monkeypatch):
  """For speed and memory alone."""
  seen, real = [], episodes.completer

  def completer(*arguments, rows, slots, **more):
    seen.append((rows, slots))
    return real(*arguments, rows=rows, slots=slots, **more)

  monkeypatch.setattr(episodes, 'completer', completer)
  assert not options.differs(told(**SAMPLED), told(**SAMPLED, rows=2))
  assert not options.differs(told(**SAMPLED), told(**SAMPLED, slots=3))
  assert seen == [(6, 0), (2, 0), (6, 0), (6, 3)]
