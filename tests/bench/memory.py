"""Peak memory of `rlft compare` and `rlft heal`, by the size of a matrix.

python -m tests.bench.memory [N or MxN ...]: for each size two models of two
matrices and an embedding, in a process of their own each. Reports the peak
resident set, and by how much it grows from the size before in units of what one
matrix (float32) does: the interpreter and the compiler are in both. So give
sizes in pairs of one shape.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from tests import llama

HEAL = ['heal', 'a', 'b', '--out=healed', '--select=proj']
COMMANDS = {
    'compare': [
        'compare', 'a', 'b', '--out=compared', '--select=proj', '--draws=2'],
    'heal': [*HEAL, '--edit=vectors'],
    'heal, half of the vectors': [*HEAL, '--edit=vectors', '--top=0.5'],
    'heal, values': [*HEAL, '--edit=values'],
    'heal, noise': [*HEAL, '--edit=noise', '--amount=0.5']}
SCRIPT = '''
import json, pathlib, re, sys, time
from rlft import main
began = time.monotonic()
assert main.main(sys.argv[1:]) == 0
seconds = time.monotonic() - began
# Not getrusage: its peak includes that of the process this one came from.
status = pathlib.Path('/proc/self/status').read_text()
peak = int(re.search(r'VmHWM:\\s+(\\d+)', status)[1])
print(json.dumps(dict(mib=peak / 1024, seconds=seconds)))
'''


def measure(shape: tuple[int, int], command: str) -> dict[str, float]:
  """Peak MiB and seconds of one command on matrices of a shape."""
  rng = np.random.default_rng(0)
  draw = lambda: rng.normal(size=shape).astype(np.float32)
  with tempfile.TemporaryDirectory() as folder:
    before = {f'm.{i}.proj.weight': draw() for i in range(2)}
    before['embed.weight'] = np.zeros((4 * shape[0], shape[1]), np.float32)
    llama.write(pathlib.Path(folder) / 'a', before)
    llama.write(pathlib.Path(folder) / 'b', llama.moved(before))
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, *COMMANDS[command]],
        check=True, cwd=folder, capture_output=True, text=True)
  return json.loads(done.stdout.splitlines()[-1])


def main(words: list[str]) -> None:
  """A line per command and size."""
  for name in COMMANDS:
    last = measure((64, 64), name)['mib'], 64 * 64 / 2**18
    print(f'{name}: {last[0]:.0f} MiB at 64 x 64', flush=True)
    for word in words:
      m, _, n = word.partition('x')
      m, n = int(m), int(n or m)
      found, matrix = measure((m, n), name), 4 * m * n / 2**20
      grown = (found['mib'] - last[0]) / (matrix - last[1])
      last = found['mib'], matrix
      print(f'{name} {m} x {n}: {found["mib"]:.0f} MiB, '
            f'{found["seconds"]:.0f} s; {grown:.1f} matrices since the last; '
            f'6 matrices and 1 GiB are {6 * matrix + 1024:.0f} MiB', flush=True)


if __name__ == '__main__':
  main(sys.argv[1:] or ['896x4736', '1344x7104'])
