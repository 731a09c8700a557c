"""The verifier: golden vectors, Python itself as the oracle, hostile text."""
import contextlib
import fractions
import re
import sys
import warnings

import numpy as np
import pytest

from rlft.ops import formulas, solutions

HAND = [2, 3, 10, 10]
NOTHING = 'your formula does not match any solution'
PARTLY = (' is partially correct but the full formula does not match any'
          ' solution')
UNUSED = "you didn't use numbers: "

# (formula field, reward and message of the published function, those of the
# corrected mode), all for the hand 2 3 10 10.
GOLDEN = [
    ('2*(10-3)+10', 5, 'Correct solution', 5, 'Correct solution'),
    ('2*(10-3)+10=24', 5, 'Correct solution', 5, 'Correct solution'),
    ('2*(10-3)+10=17', 5, 'Correct solution', -1,
     'the right side of your formula is not the target'),
    ('2 * (10-3) + 10', -3, 'illegal characters', 5, 'Correct solution'),
    ('2x(10-3)+10', -3, 'illegal characters', -3, 'illegal characters'),
    (None, -3, 'illegal characters', -3, 'illegal characters'),
    ('2*(10-3)+10)', -3, 'unmatched closing parenthesis', -3,
     'unmatched closing parenthesis'),
    ('-2+10+10+3', -3, 'invalid sequence after operator', -3,
     'invalid sequence after operator'),
    ('10+10+2+3=25', -1, '10+' + PARTLY, -1, '10+' + PARTLY),
    ('3*10-10/2', -1, NOTHING, -1, NOTHING),
    ('2*(10-3+10', -1, '2*(10-3' + PARTLY, -3,
     'unmatched opening parenthesis'),
    ('10+10+3', -2, UNUSED + '[2]', -2, UNUSED + '[2]'),
    ('2*(10-3)+10+0', -2, 'you used invalid numbers: [0]', -2,
     'you used invalid numbers: [0]'),
    ('10+10+4', -4, f'you used invalid numbers: [4], {UNUSED}[2, 3]', -2,
     f'you used invalid numbers: [4], {UNUSED}[2, 3]'),
    ('10+10+2+2', -4, f'you used numbers: [2] too many times, {UNUSED}[3]', -2,
     f'you used numbers: [2] too many times, {UNUSED}[3]'),
    ('10**2+3', -5, f'invalid sequence after operator, {UNUSED}[10]', -3,
     'invalid sequence after operator'),
    ('()', -5, f"invalid sequence after ')', {UNUSED}[2, 3, 10]", -3,
     "invalid sequence after ')'"),
    ('', -2, f'{UNUSED}[2, 3, 10]', -3, 'illegal characters'),
    # Not in the published table.
    ('10+2*(10-3', 1, 'partial solution', -3, 'unmatched opening parenthesis'),
    ('10+2*(10-3)*', -1, '10+2*(10-3)' + PARTLY, -3,
     'invalid sequence after operator'),
    ('10+2*(10-03)', -1, '10+2*(10-' + PARTLY, -3,
     'invalid sequence after number'),
    ('(2)(10-3)+10', -6,
     "invalid sequence before '(', unmatched closing parenthesis", -3,
     "invalid sequence before '(', unmatched closing parenthesis"),
    ('2*(10-3)+10=', 5, 'Correct solution', -1,
     'the right side of your formula is not the target'),
    ('2*(10-3)+10=24=24', 5, 'Correct solution', -3, 'illegal characters'),
    ('2*(10-3)+10=x', 5, 'Correct solution', -3, 'illegal characters'),
    ('2*(10-3)+10=12+12', 5, 'Correct solution', -1,
     'the right side of your formula is not the target'),
    ('10/(2-2)+3', -4, f'you used numbers: [2] too many times, {UNUSED}[10]',
     -2, f'you used numbers: [2] too many times, {UNUSED}[10]'),
    ('2/(10-10)+3', -1, '2' + PARTLY, -1, '2' + PARTLY),
]


@pytest.mark.parametrize('formula, reward, message, exact, remark', GOLDEN)
def test_golden_vectors(formula, reward, message, exact, remark):
  assert formulas.score(formula, HAND, mode='faithful') == (
      reward, message + '.')
  assert formulas.score(formula, HAND) == (exact, remark + '.')


def test_a_misplaced_parenthesis_neither_opens_nor_closes():
  # The published scan: one remark for the first ')', then a matched pair.
  assert formulas.score('()2+3)+10+10', HAND, mode='faithful') == (
      -6, "invalid sequence after ')', invalid sequence after number.")
  assert formulas.score(')', HAND, mode='faithful')[0] == -5
  assert formulas.score('2+3)+10)+10', HAND, mode='faithful')[0] == -6


def test_floating_point_misses_what_fractions_hit():
  hand = [3, 3, 8, 8]
  assert formulas.score('8/(3-8/3)', hand) == (5, 'Correct solution.')
  assert formulas.score('8/(3-8/3)', hand, mode='faithful') == (0, '.')
  assert formulas.judge('8/(3-8/3)', hand, mode='faithful').cause == (
      'wrong_value')


def test_python_rejects_what_the_published_scan_lets_through():
  def faithful(formula, values):
    return formulas.score(formula, values, mode='faithful')[0]

  # Digits of other scripts are numbers to int() and no code to eval().
  assert faithful('4*\uff16', [4, 6]) == -1 == faithful('٤*6', [4, 6])
  assert faithful('0+24', [0, 24]) == 5 == faithful('00+24', [0, 24])
  assert faithful('0+024', [0, 24]) == -1
  deep = '(' * 200 + '4*6' + ')' * 200
  assert faithful(deep, [4, 6]) == 5
  assert faithful(f'({deep})', [4, 6]) == -1  # too many nested parentheses
  assert formulas.score(f'({deep})', [4, 6])[0] == 5
  # Too long for int(): not a number of the hand, whatever its value.
  assert faithful('0' * 4300 + '4*6', [4, 6]) == -4
  assert faithful('0' * 4299 + '4*6', [4, 6]) == -1


@pytest.mark.parametrize('formula, reward, message', [
    (' 10 +10+ 2 * ( 4-2 )  = 24 ', 5, 'Correct solution.'),
    ('1 0+10+2*(4-2)=24', -3, 'invalid sequence after number.'),
    ('10+10+2*(4-2)=2 4', -3, 'invalid sequence after number.'),
    ('10+10+2*(4-2)\n=24', -3, 'illegal characters.'),
    ('10+10+2*(4-2)\t=24', -3, 'illegal characters.'),
    ('10+10+2*(4-2)=24\n', -3, 'illegal characters.'),
    ('   ', -3, 'illegal characters.'),
    ('10 +\xa010+2*(4-2)', -3, 'illegal characters.')])
def test_spaces_part_numbers_and_nothing_else_does(formula, reward, message):
  assert formulas.score(formula, [10, 10, 2, 4, 2]) == (reward, message)


def test_spaces_cost_a_time_linear_in_their_number():
  many = ' ' * 300_000  # a quadratic search would take hours
  assert formulas.score(f'4{many}*{many}6{many}', [4, 6])[0] == 5
  assert formulas.score(f'4{many}6', [4, 6])[0] == -3


def test_corrected_mode_never_adds_penalties_up():
  rng = np.random.default_rng(0)
  letters = list('0123456789+-*/()= x')
  rewards = set()
  for _ in range(3000):
    text = ''.join(rng.choice(letters, int(rng.integers(0, 12))))
    rewards.add(formulas.score(text, HAND)[0])
  assert rewards == {-3.0, -2.0}
  assert formulas.score('10*3-2*10', HAND)[0] == -1


def expression(rng, numbers):
  """A random formula of all the numbers; parentheses where Python needs them
  and sometimes where it does not."""
  if len(numbers) == 1:
    text = str(numbers[0])
  else:
    at = int(rng.integers(1, len(numbers)))
    text = (expression(rng, numbers[:at]) + '+-*/'[int(rng.integers(4))]
            + expression(rng, numbers[at:]))
  return f'({text})' if rng.random() < 0.4 else text


def tokens_of(text):
  return re.findall('[0-9]+|[-+*/()]', text)


def test_evaluator_agrees_with_python_on_floats_and_fractions():
  rng = np.random.default_rng(1)
  undefined = 0
  for _ in range(2500):
    count = int(rng.integers(1, 8))
    text = expression(rng, rng.integers(0, 14, count).tolist())
    rational = ' '.join(
        f'Fraction({t})' if t.isdigit() else t for t in tokens_of(text))
    try:
      python = eval(text)
    except ZeroDivisionError:
      python = None
    try:
      exact = eval(rational, {'Fraction': fractions.Fraction})
    except ZeroDivisionError:
      exact, undefined = None, undefined + 1
    value = formulas.evaluate(tokens_of(text), int)
    assert value == python and type(value) is type(python)
    assert formulas.evaluate(tokens_of(text), fractions.Fraction) == exact
  assert 100 < undefined < 2000


def published(formula, values):
  """5, 1, 0 or -1 of a formula that passes the scan, by Python's own eval."""
  found = solutions.solve(values)
  try:
    if eval(formula) == 24:
      return 5
  except (SyntaxError, ZeroDivisionError, OverflowError, MemoryError):
    if any(s.startswith(formula) for s in found):
      return 1
  matched = [any(s.startswith(formula[:n]) for s in found)
             for n in range(1, len(formula) + 1)]
  return 0 if all(matched) else -1


def test_faithful_value_check_is_python_with_the_prefix_rule():
  rng = np.random.default_rng(2)
  seen = {}
  for _ in range(3000):
    values = rng.integers(1, 11, 4).tolist() if rng.random() < .9 else [
        3, 3, 8, 8]
    found = solutions.solve(values)
    if found and rng.random() < 0.6:
      text = found[int(rng.integers(len(found)))]
    else:
      text = expression(rng, values)
    if rng.random() < 0.3:
      text = text.replace(')', '', 1)
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      want = published(text, values)
    assert formulas.score(text, values, mode='faithful')[0] == want
    seen[want] = seen.get(want, 0) + 1
  assert set(seen) == {5, 1, 0, -1} and min(seen.values()) >= 5


def hostile(rng):
  """Text that no formula should be: garbage, near misses, code, giants."""
  pick = rng.integers
  kind = int(pick(8))
  if kind == 0:
    return ''.join(map(chr, pick(0, 0xd800, int(pick(40))).tolist()))
  if kind == 1:
    return ''.join(rng.choice(list('()+-*/0123456789=. x'), int(pick(60))))
  if kind == 2:
    return str(rng.choice(CODE))
  if kind == 3:
    return str(rng.choice(list('(+9)=\uff10'))) * int(pick(1, 3000))
  if kind == 4:
    return '9' * int(pick(4290, 4310)) + '+1'
  formula = list('2*(10-3)+10=24')
  for _ in range(int(pick(1, 4))):
    at = int(pick(len(formula)))
    formula[at] = str(rng.choice(list('()+-*/=19 x²\uff11\ud800\n\0"{}')))
  return ''.join(formula)


CODE = [
    '9**9**9', '1_0+1', '0x1A', '1e1', 'True+1', '(x:=1)', 'lambda:0',
    'f"{1}"', '24#*0', '(1,2)', '().__class__', '__import__("os")',
    '1if 1else 2',
    '²+1', '\u22122+3', '2\u00d73', '1//1', '~1', '1.5+2', '[24][0]',
    '(' * 5000, '1' + '+1' * 5000, '{"formula": "1"}', 'nan', 'inf', '\ud800',
    '(((9**64)**64)**64)', 'None', '24', '=', '=24', '==', '10+10+2+2=24',
]


@pytest.mark.slow
def test_no_text_raises_or_hangs():
  rng = np.random.default_rng(3)
  for i in range(6000):
    text = CODE[i] if i < len(CODE) else hostile(rng)
    for mode in formulas.MODES:
      verdict = formulas.judge(text, HAND, mode=mode)
      assert verdict.cause in (
          'correct', 'format', 'wrong_number', 'wrong_value')
      assert (verdict.cause == 'correct') == (verdict.reward == 5)
      assert formulas.explain(verdict).endswith('.')
      compact = formulas.explain_compactly(verdict)
      assert compact.startswith('no ') and compact.endswith(':')
      assert len(compact.split()) <= 40


def test_recursion_limit_does_not_matter():
  limit = sys.getrecursionlimit()
  deep = '(' * 50_000 + '4*6' + ')' * 50_000
  with contextlib.ExitStack() as stack:
    stack.callback(sys.setrecursionlimit, limit)
    sys.setrecursionlimit(300)
    assert formulas.score(deep, [4, 6])[0] == 5
    assert formulas.score(deep, [4, 6], mode='faithful')[0] == -1


def test_compact_feedback_is_the_papers_in_words():
  def compact(formula, hints=True, mode='corrected'):
    verdict = formulas.judge(formula, HAND, mode=mode)
    return formulas.explain_compactly(verdict, hints=hints)

  assert compact('10+10+4') == 'no invalid 4 , unused 2 3 :'
  assert compact('10+10+2+2') == 'no excess 2 , unused 3 :'
  assert compact('10+10+2+3') == 'no partial 10 + :'
  assert compact('3*10-10/2') == 'no nothing :'
  assert compact('2*(10-3)+10=25') == 'no target :'
  assert compact('2*(10-3+10') == 'no unmatched open :'
  assert compact('2*10)-3+10') == 'no unmatched :'
  assert compact('2*(10-)3)+10') == 'no syntax close , syntax number :'
  assert compact('x') == 'no illegal :'
  assert compact('10+10+400') == 'no invalid , unused 2 3 :'
  assert compact('10+2*(10-3', mode='faithful') == 'no partial :'
  # Said once, paid three times.
  assert compact('10***2+3*10+*10', mode='faithful') == (
      'no syntax operator , excess 10 :')
  assert compact('10+10+4', hints=False) == 'no :'


def test_without_hints_nothing_is_given_away():
  assert formulas.score('10+10+4', HAND, hints=False) == (
      -2, 'your formula is not correct.')
  assert formulas.score('2*(10-3)+10', HAND, hints=False) == (
      5, 'Correct solution.')


def test_other_targets_and_sizes_of_hands():
  assert formulas.score('4+3', [3, 4], target=7)[0] == 5
  assert formulas.score('4+3=24', [3, 4], target=7)[0] == -1
  assert formulas.score('(5+5)*(5+5)/5=20', [5] * 5, target=20)[0] == 5


def test_refuses_an_unknown_mode_and_an_impossible_hand():
  with pytest.raises(ValueError, match='known: corrected, faithful'):
    formulas.score('1', HAND, mode='strict')
  for formula in ('4+6', '24', None):
    with pytest.raises(ValueError, match='hand'):
      formulas.score(formula, [24])
