"""Writes tests/fixtures/models: what transformers says of tiny checkpoints.

    python -m tests.parity.make [NAME ...]

Needs torch (`make parity` installs it). Each directory is a checkpoint in the
format of Hugging Face, and `expected.safetensors` with what it was asked and
what it answered.
"""
import shutil
import sys

from tests.parity import draw, fixtures, numbers, ours, reference


def write(name: str, case: draw.Case) -> str:
  """Makes one; a seed whose greedy choices are not all clear is passed over."""
  folder = fixtures.ROOT / name
  while True:
    shutil.rmtree(folder, ignore_errors=True)
    asked, want = reference.make(case, folder)
    if want.margins.min() > numbers.CLEAR:
      break
    case = case._replace(seed=case.seed + 1)
  fixtures.store(folder, asked, want)
  found = numbers.errors(ours.answers(folder, asked), want, asked)
  worst = max(found, key=found.get)
  size = sum(p.stat().st_size for p in folder.iterdir())
  return (f'{name}: seed {case.seed}, {size / 1e6:.2f} MB, worst '
          f'{found[worst]:.1e} ({worst})')


if __name__ == '__main__':
  for name in sys.argv[1:] or draw.FIXTURES:
    print(write(name, draw.FIXTURES[name]), flush=True)
