"""Peak memory of `rlft compare` and `rlft heal`, by the size of a matrix.

python -m tests.bench.memory [N ...]: for each N two models of four N x N
matrices and an embedding, in a process of their own each. Reports the peak
resident set, and what of it comes on top of N = 64 in units of one matrix
(float32): the interpreter and the compiler are in both.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from tests import llama

COMMANDS = {
    'compare': ['--out=compared', '--select=proj', '--draws=2'],
    'heal': ['--out=healed', '--select=proj', '--edit=vectors']}
SCRIPT = '''
import json, resource, sys, time
from rlft import main
began = time.monotonic()
assert main.main(sys.argv[1:]) == 0
print(json.dumps(dict(
    mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    seconds=time.monotonic() - began)))
'''


def measure(n: int, command: str) -> dict[str, float]:
  """Peak MiB and seconds of one command on matrices of n x n."""
  rng = np.random.default_rng(0)
  draw = lambda: rng.normal(size=(n, n)).astype(np.float32)
  with tempfile.TemporaryDirectory() as folder:
    before = {f'm.{i}.proj.weight': draw() for i in range(4)}
    before['embed.weight'] = np.zeros((4 * n, n), np.float32)
    llama.write(pathlib.Path(folder) / 'a', before)
    llama.write(pathlib.Path(folder) / 'b', llama.moved(before))
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, command, 'a', 'b', *COMMANDS[command]],
        check=True, cwd=folder, capture_output=True, text=True)
  return json.loads(done.stdout.splitlines()[-1])


def main(sizes: list[int]) -> None:
  """A line per command and size."""
  for name in COMMANDS:
    base = measure(64, name)['mib']
    print(f'{name}: {base:.0f} MiB at 64 x 64', flush=True)
    for n in sizes:
      found, matrix = measure(n, name), 4 * n * n / 2**20
      over = (found['mib'] - base) / matrix
      print(f'{name} {n} x {n}: {found["mib"]:.0f} MiB, '
            f'{found["seconds"]:.0f} s; {over:.1f} matrices over that; '
            f'6 matrices and 1 GiB are {6 * matrix + 1024:.0f} MiB', flush=True)


if __name__ == '__main__':
  main([int(n) for n in sys.argv[1:]] or [512, 1024])
