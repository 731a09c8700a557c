"""The solver, against a different search and the published counts."""
import collections
import functools
import itertools
import math
import statistics
from fractions import Fraction

import numpy as np
import pytest

from rlft.ops import cards, solutions

ID, OOD = cards.FACES
RANKS = list(itertools.combinations_with_replacement(range(1, 14), 4))


@functools.cache
def reachable(numbers):
  """Every value of every expression tree over all the numbers (sorted)."""
  if len(numbers) == 1:
    return frozenset([Fraction(numbers[0])])
  found = set()
  for size in range(1, len(numbers) // 2 + 1):
    for chosen in itertools.combinations(range(len(numbers)), size):
      left = reachable(tuple(numbers[i] for i in chosen))
      right = reachable(tuple(
          n for i, n in enumerate(numbers) if i not in chosen))
      for a, b in itertools.product(left, right):
        found |= {a + b, a - b, b - a, a * b}
        if b:
          found.add(a / b)
        if a:
          found.add(b / a)
  return frozenset(found)


def exactly(formula):
  """The value of a formula made by the solver, by Python on Fractions."""
  numbers = solutions.spaced(formula).split()
  return eval(''.join(
      f'Fraction({word})' if word.isdigit() else word for word in numbers))


def solvable(ranks, faces):
  return solutions.is_solvable(cards.values(ranks, faces))


@pytest.mark.parametrize('count, hands', [(2, 60), (3, 60), (4, 60), (5, 12)])
def test_solves_exactly_the_hands_that_some_expression_tree_solves(
    count, hands):
  rng = np.random.default_rng(count)
  answers = set()
  for _ in range(hands):
    numbers = tuple(sorted(rng.integers(0, 14, count).tolist()))
    target = int(rng.integers(0, 30 if count > 2 else 12))
    found = solutions.solve(numbers, target)
    assert bool(found) == (Fraction(target) in reachable(numbers))
    answers.add(bool(found))
    for formula in found[:20]:
      assert exactly(formula) == target
      words = solutions.spaced(formula).split()
      assert sorted(int(w) for w in words if w.isdigit()) == list(numbers)
  assert count == 5 or answers == {True, False}


def test_unspaced_is_the_inverse_of_spaced():
  for text in ('10+5*(2-4)=24', '8/(3-8/3)', '7', '', '((1)'):
    assert solutions.unspaced(solutions.spaced(text)) == text
  assert solutions.unspaced('  1 0 + 2  3') == '1 0+2 3'
  assert solutions.unspaced('1\n+ 2') == '1\n+2'


def test_strings_of_one_hand_are_those_found_by_hand():
  assert solutions.solve([10, 2, 10, 3]) == [
      '(10-3)*2+10', '10+(10-3)*2', '10+2*(10-3)', '10-(3-10)*2',
      '10-2*(3-10)', '2*(10-3)+10']
  assert solutions.solve([3, 8, 3, 8]) == ['8/(3-8/3)']


def test_dividing_by_zero_twice_is_no_solution():
  # 24 + 0 / (1 / 0) is undefined, not 24.
  for formula in solutions.solve([24, 0, 1, 5], 24):
    exactly(formula)
  assert '24+0/(1/0)' not in solutions.solve([24, 0, 1, 0], 24)
  assert solutions.solve([5, 0], 0) == ['0*5', '0/5', '5*0']


def test_brackets_of_four_numbers_are_the_published_seven():
  # 1 + 1 + 1 + 1 = 4 under every bracketing, and 1 * 1 * 1 + 3 etc. do not
  # matter: one order of the numbers and one triple of operators is enough.
  sums = [s for s in solutions.solve([1, 1, 1, 1], 4) if s.count('+') == 3]
  assert set(sums) == {
      '1+1+1+1', '(1+1)+1+1', '1+(1+1)+1', '1+1+(1+1)', '(1+1+1)+1',
      '1+(1+1+1)', '(1+1)+(1+1)'}


def test_counts_of_solvable_hands():
  under_id = [r for r in RANKS if solvable(r, ID)]
  under_ood = [r for r in RANKS if solvable(r, OOD)]
  with_face = [r for r in under_ood if r[-1] > 10]
  assert (len(RANKS), len(under_ood)) == (1820, 1362)
  small = [r for r in RANKS if r[-1] <= 10]
  assert (len(small), sum(solvable(r, ID) for r in small)) == (715, 566)
  assert len(under_id) == 1236
  assert sum(r[-1] > 10 for r in under_id) == 670
  assert sum(r[-1] > 10 for r in RANKS) == 1105
  assert len(with_face) == 796
  assert sum(solvable(r, ID) for r in with_face) == 529


def test_chances_of_the_two_samplers():
  def orders(ranks):
    repeats = collections.Counter(ranks).values()
    return math.factorial(4) // math.prod(map(math.factorial, repeats))

  def faces(ranks):
    return sum(r > 10 for r in ranks)

  accepted = [r for r in RANKS if solvable(r, ID)]
  prompts = sum(map(orders, accepted))
  assert prompts == 20_876
  assert prompts / 13**4 == pytest.approx(0.731, abs=5e-4)
  assert sum(orders(r) for r in accepted if faces(r)) / prompts == (
      pytest.approx(0.590, abs=5e-4))
  # The card that must be a face is each of the hand's faces equally often.
  chance = {r: orders(r) * faces(r) / 12 / 13**3 for r in RANKS}
  kept = [r for r in RANKS if solvable(r, OOD)]
  total = sum(chance[r] for r in kept)
  assert total == pytest.approx(0.731, abs=5e-4)
  shares = [sum(chance[r] for r in kept if faces(r) == k) / total
            for k in (1, 2, 3, 4)]
  np.testing.assert_allclose(shares, [.496, .404, .085, .015], atol=5e-4)


def test_counts_of_solution_strings_and_of_float_misses():
  under_id = [r for r in RANKS if r[-1] <= 10 and solvable(r, ID)]
  under_ood = [r for r in RANKS if r[-1] > 10 and solvable(r, OOD)]
  for hands, mean, median, strings, misses in (
      (under_id, 48, 24, 27_387, 68), (under_ood, 56, 26, 44_900, 45)):
    found = [solutions.solve(r) for r in hands]
    sizes = list(map(len, found))
    assert round(statistics.mean(sizes)) == mean
    assert statistics.median(sizes) == median
    distinct = set().union(*found)
    assert len(distinct) == strings == sum(sizes)
    divided = [s for s in distinct if '/' in s]
    assert sum(eval(s) != 24 for s in divided) == misses


def test_canonical_prefers_no_division_then_few_parentheses_then_size():
  assert solutions.canonical([2, 10, 5, 4]) == '10+5*2+4'
  assert solutions.canonical([2, 3, 10, 10]) == '10+(10-3)*2'
  assert solutions.canonical([3, 3, 8, 8]) == '8/(3-8/3)'
  assert solutions.canonical([7, 7, 7, 7]) is None
  for ranks in RANKS[::37]:
    best, found = solutions.canonical(ranks), solutions.solve(ranks)
    assert (best is None) == (not found)
    if best:
      assert best in found
      assert best.count('/') == min(s.count('/') for s in found)
      assert best == solutions.canonical(ranks[::-1])


def test_prefixes_are_those_of_the_solutions():
  found = solutions.solve([10, 5, 2, 4])
  prefixes = {s[:n] for s in found for n in range(len(s) + 1)}
  for text in [*prefixes, '5*)', '4*3', '10+5*2+4+', 'x', '9', '(((']:
    assert solutions.is_prefix(text, [2, 4, 5, 10]) == (text in prefixes)


def test_splits_are_disjoint_stable_and_of_the_asked_size():
  held = {r for r in RANKS if solutions.in_split(r, 24, 'held_out', 0.25)}
  train = {r for r in RANKS if solutions.in_split(r, 24, 'train', 0.25)}
  assert not held & train and len(held | train) == len(RANKS)
  assert 0.22 < len(held) / len(RANKS) < 0.28
  # Pinned: no new version, process or order of the cards may move a hand.
  assert [solutions.in_split((1, 2, 3, k), 24, 'held_out', 0.25)
          for k in range(1, 9)] == [
              False, False, True, False, False, False, False, False]
  assert all(solutions.in_split(r[::-1], 24, 'held_out', 0.25) for r in held)
  more = {r for r in RANKS if solutions.in_split(r, 24, 'held_out', 0.5)}
  assert held < more
  assert all(solutions.in_split(r, 24, None, 0.25) for r in RANKS[:50])


def test_a_validation_split_is_taken_from_the_training_hands_alone():
  of = lambda split, *shares: {
      r for r in RANKS if solutions.in_split(r, 24, split, *shares)}
  found = [of(s, 0.25, 0.15) for s in ('train', 'validation', 'held_out')]
  assert len(set.union(*found)) == sum(map(len, found)) == len(RANKS)
  assert 0.12 < len(found[1]) / len(RANKS) < 0.18
  assert found[2] == of('held_out', 0.25) and found[1] < of('train', 0.25)
  assert not of('validation', 0.25)


@pytest.mark.parametrize('values', [[], [24], [1] * 6, [1, -2], [1, 1000]])
def test_refuses_other_hands_with_a_reason(values):
  with pytest.raises(ValueError, match='hand'):
    solutions.solve(values)


def test_solve_hands_out_a_list_of_its_own():
  solutions.solve([4, 6]).clear()
  assert solutions.solve([4, 6]) == ['4*6', '6*4']
