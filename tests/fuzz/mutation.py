"""Hostile texts: seeds of a corpus, cut, joined and spoiled at random."""
import json
import pathlib
import random

CORPUS = pathlib.Path(__file__).parent / 'corpus'
LONGEST = 4000  # characters; a tenth of a percent is far longer
PIECES = (
    '٢٤', '²', '½', '\uff11', '\u0967', 'Ⅷ',  # digits of other kinds
    '\0', '\n', '\r\n', '\t', '\x1b[2J', '\x7f', '\x85', '\u2028', '\u202e',
    '\ud800', '\udcff', '\ufeff', 'ﬁ', 'é', 'e\u0301', '🂡',
    '..', '../', '/../..', '/etc/passwd', '/dev/zero', '~', 'C:\\', '//',
    'gs://bucket/x', 'file:///', '-rf', '--', '$(id)', '`id`', ';', '|', '&',
    '%s', '%n', '{}', '{0}', '{__class__}', '__import__("os")', 'lambda:0',
    '9' * 25, '-1', '0x' + 'f' * 40, '1e999', 'nan', 'inf', '-0', '1_0', '0b1',
    str(2**31), str(2**63), str(2**64), '1e-400', '1j', 'None', 'True',
    '(', ')', '[', ']', '{', '}', '"', "'", '\\', ',', ':', '=', '@', '.', ' ',
    '+', '-', '*', '/', '**', '()', '(((', ')))', '[]', '{[]:1}', 'b"x"', '...',
    'null', 'true', '\\u0000', '\\ud800', '"a": 1,')
# each is repeated or as long as this many characters
DEEP = ('(', '[', '{"a":', '1+', '-', '9', ' ', '((1)', '.', '/', 'a', ',',
        '../', '\0', '{', '"', ':', '=', '0')


def seeds(name: str) -> list[str]:
  """The committed inputs of a target."""
  lines = (CORPUS / f'{name}.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def text(rng: random.Random, corpus: list[str]) -> str:
  """A seed after one to six changes; the same again for the same `rng`."""
  found = rng.choice(corpus)
  for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 6))):
    found = rng.choice(CHANGES)(rng, found, corpus)[:LONGEST]
  if rng.random() < 0.001:
    unit, at = rng.choice(DEEP), rng.randint(0, len(found))
    length = rng.choice((5_000, 20_000, 100_000))
    found = found[:at] + unit * (length // len(unit)) + found[at:]
  return found


def _slice(rng, x):
  start = rng.randint(0, len(x))
  return start, rng.randint(start, min(len(x), start + rng.choice((1, 4, 40))))


def _insert(rng, x, _):
  at = rng.randint(0, len(x))
  return x[:at] + rng.choice(PIECES) + x[at:]


def _replace(rng, x, _):
  start, stop = _slice(rng, x)
  return x[:start] + rng.choice(PIECES) + x[stop:]


def _delete(rng, x, _):
  start, stop = _slice(rng, x)
  return x[:start] + x[stop:]


def _duplicate(rng, x, _):
  start, stop = _slice(rng, x)
  return x[:stop] + x[start:stop] * rng.choice((1, 1, 2, 30)) + x[stop:]


def _move(rng, x, _):
  start, stop = _slice(rng, x)
  rest = x[:start] + x[stop:]
  at = rng.randint(0, len(rest))
  return rest[:at] + x[start:stop] + rest[at:]


def _splice(rng, x, corpus):
  other = rng.choice(corpus)
  return x[:rng.randint(0, len(x))] + other[rng.randint(0, len(other)):]


def _borrow(rng, x, corpus):
  other = rng.choice(corpus)
  start, stop = _slice(rng, other)
  at = rng.randint(0, len(x))
  return x[:at] + other[start:stop] + x[at:]


def _byte(rng, x, _):
  if not x:
    return chr(rng.randrange(256))
  at = rng.randrange(len(x))
  spoiled = (ord(x[at]) ^ (1 << rng.randrange(8))) % 0x110000
  return x[:at] + chr(spoiled) + x[at + 1:]


def _number(rng, x, _):
  places = [i for i, c in enumerate(x[:400]) if c.isascii() and c.isdigit()]
  if not places:
    return _insert(rng, x, _)
  at = rng.choice(places)
  new = rng.choice(('0', '1', '2', '3', '7', '9', '10', '24', '-1', '0.5',
                    '65536', str(2**63), '1e9'))
  return x[:at] + new + x[at + 1:]


def _case(rng, x, _):
  start, stop = _slice(rng, x)
  return x[:start] + x[start:stop].swapcase() + x[stop:]


CHANGES = (_insert, _insert, _replace, _delete, _delete, _duplicate, _move,
           _splice, _borrow, _byte, _number, _number, _case)


def as_bytes(found: str) -> bytes:
  """One byte per character where that is possible."""
  try:
    return found.encode('latin-1')
  except UnicodeEncodeError:
    return found.encode('utf-8', 'surrogatepass')
