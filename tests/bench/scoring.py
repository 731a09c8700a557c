"""How fast the card game is, and whether any of 100,000 texts upsets it.

  python tests/bench/scoring.py [texts]
"""
import itertools
import sys
import time

import numpy as np

from rlft.envs import general_points
from rlft.ops import formulas, solutions


def rate(label: str, count: int, action) -> None:
  """Prints how many of `count` calls of action() are done in a second."""
  start = time.perf_counter()
  for _ in range(count):
    action()
  seconds = time.perf_counter() - start
  print(f'{label:40} {count / seconds:>12,.0f} /s  {seconds:6.2f} s')


def text(rng: np.random.Generator, best: str) -> str:
  """A demonstration with a few characters changed, or garbage."""
  if rng.random() < 0.2:
    return ''.join(map(chr, rng.integers(0, 0x3000, rng.integers(80))))
  letters = list(best)
  for _ in range(int(rng.integers(0, 4))):
    at = int(rng.integers(len(letters)))
    letters[at] = str(rng.choice(list('()+-*/=19 :x²"\n{}\ud800')))
  if rng.random() < 0.01:
    letters *= int(rng.integers(1, 300))
  return ''.join(letters)


def main(texts: int) -> None:
  """Prints one rate per line; an exception is a failure."""
  rng = np.random.default_rng(0)
  hands = itertools.combinations_with_replacement(range(1, 14), 4)
  rate('multisets solved (cold)', 1820,
       lambda: solutions.canonical(next(hands)))
  rate('sample + demonstrate', 20_000, lambda: general_points.demonstrate(
      general_points.sample(rng, split='train')))
  for style in ('compact', 'paper'):
    tasks = [general_points.sample(rng, text=style) for _ in range(500)]
    best = [general_points.demonstrate(t) for t in tasks]
    cases = itertools.cycle(zip(tasks, best, strict=True))
    for mode in formulas.MODES:
      def respond(mode=mode, cases=cases):
        task, completion = next(cases)
        general_points.respond(task, [completion], mode=mode)

      rate(f'respond {style} {mode}', 20_000, respond)
    written = iter([(tasks[i % 500], text(rng, best[i % 500]))
                    for i in range(texts // 2)])

    def survive(written=written):
      task, completion = next(written)
      for mode in formulas.MODES:
        turn = general_points.respond(task, [completion], mode=mode)
        assert next(iter(turn.parts)) in general_points.OUTCOMES

    rate(f'hostile {style}, both modes', texts // 2, survive)


if __name__ == '__main__':
  main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
