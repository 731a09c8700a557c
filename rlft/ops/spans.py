"""Parts of a completion's text, found again among its tokens."""
import bisect
from collections.abc import Callable, Iterable, Sequence

Span = tuple[int, int, float]  # from a character, up to one, weight


def weights(
    tokens: Sequence[int], decode: Callable[[Sequence[int]], str],
    spans: Iterable[Span],
) -> list[float]:
  """The weight of each token: of the span in which its text ends, 1 in none.

  So a token that straddles the border of two spans has the weight of the
  second, and one without text (a stop, a special token) that of the text before
  it. A later span overrules an earlier. `decode` must go on as it began: the
  text of the first n tokens begins that of all, but for a character whose
  bytes are not complete yet, which counts as one character.
  """
  weighed = [1.0] * len(tokens)

  def ends_by(place):
    """How many tokens end at or before this character."""
    return bisect.bisect_right(
        range(len(tokens)), place, key=lambda i: len(decode(tokens[:i + 1])))

  for start, stop, weight in spans:
    low = ends_by(start) if start else 0
    high = ends_by(stop)
    weighed[low:high] = [float(weight)] * (high - low)
  return weighed
