"""Verifiers that hang, raise or die: each is told for what it is."""
import functools
import math
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from rlft import episodes, pulse, verifiers
from rlft.ops import dealing
from rlft.types import Task, Turn
from tests import misjudging, tiny

PAID = functools.partial(misjudging.respond, reward=2.0)


@pytest.fixture
def pool():
  """pool(**options), ended with the test."""
  made = []

  def make(**options):
    made.append(verifiers.Pool(PAID, **{'deadline': 60} | options))
    return made[-1]

  yield make
  for one in made:
    one.close()


def ended(pool, *says):
  return pool.ended([
      pool.begin(Task(f't{i}', None), ['x', said])
      for i, said in enumerate(says)])


def names(turns):
  return [next(iter(turn.parts)) for turn in turns]


def pids(turns):
  return {turn.parts['pid'] for turn in turns if 'pid' in turn.parts}


def test_turns_come_in_order_and_crashes_are_no_verdicts(pool, capfd):
  """The first of two workers is slow; neither ends because a verifier raises.

  What raised is told once. Nothing that failed has a reward.
  """
  turns = ended(pool(workers=2), 'slowly 0.5', 'done', 'raise no such key',
                'nothing', 'nan', 'unpaid', 'leave', 'done')
  assert names(turns) == ['wrong', 'correct', *['crashed'] * 5, 'correct']
  for i in (0, 1, 7):
    assert turns[i].observation == f't{i} 2' and turns[i].reward == 2.0
    assert turns[i].done == (i > 0)
  for turn in turns[2:7]:
    assert math.isnan(turn.reward) and turn.done and turn.observation == ''
  assert len(pids(turns)) <= 2 and os.getpid() not in pids(turns)
  said = capfd.readouterr().err
  assert said.count('rlft: warning: a verifier crashed: ') == 1
  assert 'LookupError: no such key; from now on this is only counted' in said


@pytest.mark.slow
def test_who_is_late_or_dies_is_replaced(pool, tmp_path, capfd):
  """Also one that lets no thread run, and with all that it has started."""
  note = tmp_path / 'pid'
  turns = ended(
      pool(workers=1, deadline=4, failed_reward=-1), 'done', 'forever', 'done',
      'die', 'done', 'deaf', f'child {note}', 'done')
  assert names(turns) == [
      'correct', 'timed_out', 'correct', 'crashed', 'correct', 'timed_out',
      'timed_out', 'correct']
  assert len(pids(turns)) == 4
  assert [t.reward for t in turns] == [2, -1, 2, -1, 2, -1, -1, 2]
  said = capfd.readouterr().err
  assert said.count('a verifier timed out: no answer in 4 s; from now') == 1
  assert said.count('a verifier crashed: its process died (status 7)') == 1
  gone(int(note.read_text()), *pids(turns[:5]))


def gone(*numbers):
  """Waits for the processes to end; a zombie that nobody reaps has ended."""
  def runs(number):
    try:
      stat = pathlib.Path(f'/proc/{number}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
      return False
    return stat.rpartition(')')[2].split()[0] != 'Z'

  until = time.monotonic() + 60
  while any(map(runs, numbers)):
    assert time.monotonic() < until, 'it goes on'
    time.sleep(0.05)


PARENT = '''
import time
from rlft import spelled, verifiers
from rlft.types import Task
from tests import misjudging
program = spelled.write(misjudging.respond)
workers = [verifiers.start(program) for _ in range(3)]
for worker, said in zip(workers, ('forever', 'deaf')):  # the third is idle
  worker.line.send_bytes(spelled.write((Task('', None), [said])))
time.sleep(1)
print(*[worker.process.pid for worker in workers], flush=True)
time.sleep(3600)
'''


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='Linux kills the deaf')
def test_no_worker_outlives_who_started_it():
  with subprocess.Popen([sys.executable, '-c', PARENT], text=True,
                        stdout=subprocess.PIPE) as parent:
    numbers = [int(word) for word in parent.stdout.readline().split()]
    parent.send_signal(signal.SIGKILL)
  assert len(numbers) == 3
  gone(*numbers)


def test_a_failure_anywhere_is_one_everywhere(pool, monkeypatch):
  """Another process had its second turn time out, and no third one crash."""
  monkeypatch.setattr(dealing, 'largest', lambda codes: np.maximum(
      codes, [0, 1, 0]))
  turns = ended(pool(workers=1), 'done', 'done', 'raise')
  assert names(turns) == ['correct', 'timed_out', 'crashed']
  assert math.isnan(turns[1].reward) and turns[1].done


def test_here_a_verifier_that_raises_ends_the_run():
  here = verifiers.Here(PAID)
  begun = [here.begin(Task('t', None), [said]) for said in ('x', 'done')]
  assert [t.done for t in here.ended(begun)] == [False, True]
  with pytest.raises(LookupError, match='key'):
    here.begin(Task('t', None), ['raise key'])


def test_what_nobody_will_ask_for_is_dropped(pool):
  begun, one = [], pool(workers=1)
  with pytest.raises(KeyboardInterrupt), verifiers.dropping(begun):
    begun += [one.begin(Task('t', None), ['slowly 1']) for _ in range(50)]
    raise KeyboardInterrupt
  assert all(future.cancelled() for future in begun[1:])


@pytest.mark.parametrize('section, learned, complaint', [
    (dict(workers=0), (), 'workers=0, deadline=5.0: give 1 or more'),
    (dict(deadline=0), (), 'workers=2, deadline=0: give 1'),
    (dict(seconds=1), (), 'takes no seconds; known: workers, deadline,'),
    (None, ('correct', 'crashed'), 'learn_from has crashed, which has no rew'),
    (dict(workers=1), ('timed_out',), 'learn_from has timed_out, which has')])
def test_a_section_that_makes_no_sense_is_refused(section, learned, complaint):
  with pytest.raises(ValueError, match=complaint):
    verifiers.pool(PAID, section, learned)


def test_only_functions_of_modules_can_be_sent():
  with pytest.raises(ValueError, match='only if they are functions of a mod'):
    verifiers.Pool(lambda task, completions: Turn('', 0.0, True, {}))


def test_a_process_that_cannot_begin_says_why():
  with pytest.raises(ChildProcessError, match=r'not start: .*JSONDecode'):
    verifiers.start(b'no program')


def test_work_that_goes_on_is_heard(pool):
  """Of a thousand late verifiers no watchdog thinks that nothing is done."""
  beats, one = [], pool(workers=1)
  begun = [one.begin(Task('t', None), ['done']) for _ in range(3)]
  with pulse.listening(lambda: beats.append(sum(f.done() for f in begun))):
    one.ended(begun)
  assert len(beats) == 3 and beats[0] >= 1 and beats[-1] == 3


def test_work_that_goes_on_here_is_heard():
  """Each of three verifiers, judging at once, as of three that are slow."""
  words, judged, beats = tiny.words(), [], []

  def respond(task, completions):
    judged.append(task)
    return Turn('', 0.0, True, {'wrong': 0.0})

  complete = lambda params, contexts, keys: (
      [[words.end]] * 3, [episodes.Scores([0.0], [0.0])] * 3)
  with pulse.listening(lambda: beats.append(len(judged))):
    episodes.play(respond, [Task('24', None)] * 3, complete, {}, words,
                  jax.random.key(0))
  assert beats == [1, 2, 3]
