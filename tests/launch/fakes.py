"""What the launchers call, faked: python fakes.py TOOL WORD ...

Every call is written down in $FAKES/calls. Each run of `rlft` takes the next
line of $FAKES/plan: an exit code; `killed`; `wait`, for SIGTERM, which ends it
with 42; `gone`, as `wait` for a process whose peer has gone; or `taken`, which
takes the slice away.
"""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(os.environ['FAKES'])
STATE = HERE / 'state'


def until(true):
  """Waits for something that will be so, but not for ever."""
  end = time.monotonic() + 60
  while not true() and time.monotonic() < end:
    time.sleep(.01)


def gcloud(words):
  """Queued resources, and one host that is reached by ssh."""
  verb = ' '.join(words[2:4])
  if verb == 'queued-resources list':
    if STATE.exists() and STATE.read_text() == 'MUTE':
      return 1
    print(STATE.read_text() if STATE.exists() else '')
  elif verb == 'queued-resources create':
    STATE.write_text('ACTIVE')
  elif verb == 'queued-resources delete':
    STATE.unlink()
  elif verb == 'tpu-vm scp':
    Path(HERE, 'rlft_worker.sh').write_bytes(Path(words[4]).read_bytes())
  elif verb == 'tpu-vm ssh':
    line = next(w for w in words if w.startswith('--command='))
    os.chdir(HERE)
    os.execvp('bash', ['bash', '-c', line.partition('=')[2]])
  return 0


def docker(words):
  """Containers that are processes; their codes are in NAME.code.

  Before any starts, those named in the file `containers` are there.
  """
  verb, last = words[0], words[-1]
  if verb == 'ps':
    there = Path(HERE, 'containers')
    names = there.read_text().split() if there.exists() else []
    print('\n'.join(name for name in names if last in (
        'label=rlft', f'name=^/{name}$')))
  elif verb == 'run':
    name = next(w[7:] for w in words if w.startswith('--name='))
    command = words[1 + next(
        i for i, word in enumerate(words) if word.endswith('image')):]
    line = f'"$@"; echo $? >{HERE}/{name}.code'
    subprocess.Popen(
        ['bash', '-c', line, 'container', *command], start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
  elif verb in ('logs', 'wait'):
    until(Path(HERE, f'{last}.code').exists)
    until(Path(HERE, f'{last}.code').read_text)
    if verb == 'wait':
      print(Path(HERE, f'{last}.code').read_text().strip())
  elif verb == 'kill':
    os.kill(int(Path(HERE, '0.pid').read_text()), signal.SIGTERM)


def srun(words):
  """Tasks; once one fails all others are killed, and that is what it says."""
  while words[0].startswith('--'):
    words = words[1:]
  count = int(os.environ['SLURM_NTASKS'])
  tasks = [subprocess.Popen(words, start_new_session=True, env={
      **os.environ, 'SLURM_PROCID': str(rank)}) for rank in range(count)]
  until(lambda: any(t.poll() for t in tasks) or all(
      t.poll() is not None for t in tasks))
  if any(t.poll() not in (0, 42, None) for t in tasks):
    for task in tasks:
      if task.poll() is None:
        os.killpg(task.pid, signal.SIGKILL)
  codes = [task.wait() for task in tasks]
  return 128 - min(codes) if min(codes) < 0 else max(codes)


def xpk(words):
  """A container's shell that starts the command in another shell."""
  line = next(w[10:] for w in words if w.startswith('--command='))
  Path(HERE, 'shell.pid').write_text(str(os.getpid()))
  os.execvp('bash', ['bash', '-c', (
      f'(:; {line}; exit $?) & child=$!; trap "kill -TERM $child" TERM; '
      'wait $child; code=$?; ((code < 128)) || { wait $child; code=$?; }; '
      'exit $code')])


def rlft(words):
  """Does what the plan says."""
  del words
  rank = os.environ.get('SLURM_PROCID', '0')
  plan = Path(HERE, 'plan').read_text().split('\n')
  turn = int(rank) if 'SLURM_PROCID' in os.environ else sum(
      json.loads(line)[0] == 'rlft'
      for line in Path(HERE, 'calls').read_text().splitlines()) - 1
  step = plan[turn]
  if step == 'killed':
    os.kill(os.getpid(), signal.SIGKILL)
  if step == 'taken':
    STATE.write_text('SUSPENDED')
    return 41
  if step in ('wait', 'gone'):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(
        42 if step == 'wait' else 134))
    Path(HERE, f'{rank}.pid.new').write_text(str(os.getpid()))
    Path(HERE, f'{rank}.pid.new').rename(HERE / f'{rank}.pid')
    time.sleep(60)
    return 1
  return int(step)


def main(tool, words):
  """Writes the call down, then does it."""
  with Path(HERE, 'calls').open('a') as file:
    file.write(json.dumps([tool, *words]) + '\n')
  if tool == 'sudo':
    os.execvp(words[0], words)
  if tool == 'kubectl':
    Path(HERE, 'stdin').write_text(sys.stdin.read())
  does = {'gcloud': gcloud, 'docker': docker, 'srun': srun, 'xpk': xpk,
          'rlft': rlft}
  return does[tool](words) if tool in does else 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1], sys.argv[2:]))
