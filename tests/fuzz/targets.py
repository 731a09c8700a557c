"""What is fuzzed. A target takes one text and answers how it was taken.

A text is `KIND\\x1fREST`; of a formula or completion KIND is a hand's number.

`make(folder)` gives `call(text) -> str`, the word that is counted. A text that
is refused with ValueError is counted as that, if `rules.refusal` lets it pass;
any other exception is a failure.
"""
import pathlib
from collections.abc import Callable

from rlft import tokenizer
from rlft.envs import general_points
from rlft.experience import conversations
from rlft.ops import card_texts, formulas
from rlft.types import Task
from tests import tiny
from tests.fuzz import files, names, settings
from tests.fuzz.rules import require

Call = Callable[[str], str]

HANDS = (((10, 5, 2, 4), 24), ((1, 1, 1, 8), 24), ((13, 12, 11, 1), 24),
         ((3, 3, 8, 8), 24), ((0, 999, 7, 7, 2), 14), ((6, 6), 12))
LONGEST_REMARK = 2000


def number(kind: str) -> int:
  """A number of a text's kind, 0 where there is none."""
  return ord(kind[-1]) % 48 if kind else 0


def formula(folder: pathlib.Path) -> Call:
  """The judge in both modes, and what its authors are told."""
  def call(text):
    kind, _, text = text.rpartition('\x1f')
    values, target = HANDS[number(kind) % len(HANDS)]
    causes = []
    for mode in formulas.MODES:
      verdict = formulas.judge(text, values, target=target, mode=mode)
      require(verdict.cause in ('correct', 'format', 'wrong_number',
                                'wrong_value'), f'cause {verdict.cause}')
      require((verdict.reward == formulas.CORRECT)
              == (verdict.cause == 'correct'), f'{verdict}')
      require(verdict.reward <= formulas.CORRECT, f'{verdict}')
      if mode == 'corrected':
        require(verdict.reward in (5.0, -1.0, -2.0, -3.0), f'{verdict}')
      for hints in (False, True):
        require(formulas.explain(verdict, hints=hints).endswith('.'), 'no end')
        compact = formulas.explain_compactly(verdict, hints=hints)
        require(compact.startswith('no ') and compact.endswith(' :')
                and len(compact) < LONGEST_REMARK, f'{compact[:300]!r}')
      causes.append(verdict.cause)
    return causes[0]
  return call


def tasks() -> list[Task]:
  """One of each text, under each of the published rules."""
  found = []
  for text in card_texts.TEXTS:
    for ranks, faces in (((10, 5, 2, 4), (10, 10, 10)),
                         ((13, 12, 1, 2), (11, 12, 13))):
      values = tuple(faces[r - 11] if r > 10 else r for r in ranks)
      found.append(Task(
          card_texts.prompt(text, ranks, faces, 24),
          general_points.Hand(ranks, values, 24, faces, text)))
  return found


def completion(folder: pathlib.Path) -> Call:
  """Completions: outcome, reply and weights, in both texts and modes."""
  games = tasks()

  def call(text):
    kind, _, text = text.rpartition('\x1f')
    task = games[number(kind) % len(games)]
    for mode in formulas.MODES:
      outcome = general_points.outcome(task, text, mode=mode)
      require(outcome in general_points.OUTCOMES, outcome)
      turn = general_points.respond(task, [text], mode=mode)
      require(turn.done == (outcome == 'correct'), f'{turn}')
      require(set(turn.parts) == {outcome, 'number_field'}, f'{turn}')
    (start, stop, weight), = general_points.spans(task, text)
    require(start == 0 and 0 <= stop <= len(text) and weight == 0.5,
            f'{start} {stop} {weight}')
    return outcome
  return call


def conversation(folder: pathlib.Path) -> Call:
  """A line of a file, up to the tokens of a row and what counts in it."""
  known = {'words': tiny.words()} | {
      name: tokenizer.load(f'asset:{name}_chat')
      for name in ('qwen2', 'llama3')}

  def call(text):
    kind, _, text = text.rpartition('\x1f')
    words = known.get(kind, known['qwen2'])
    said = conversations.parse(text.encode('utf-8', 'surrogatepass'))
    row = conversations.example(words, said)
    require(len(row.tokens) == len(row.mask) and any(row.mask), 'no mask')
    require(not row.mask[0] and all(type(t) is int for t in row.tokens), 'row')
    require(words.pad not in row.tokens, 'a pad')
    require(words.bos not in row.tokens[1:], 'a second document')
    turns = sum(m['role'] == 'assistant' for m in said.messages)
    return f'{min(turns, 3)} turns{" with tools" * bool(said.tools)}'
  return call


TARGETS: dict[str, Callable[[pathlib.Path], Call]] = {
    'formula': formula,
    'completion': completion,
    'conversation': conversation,
    'config': settings.make,
    'checkpoint': files.make,
    'name': names.make,
}
