"""Slots of a sampler: rows that go on to another request when one has ended.

Continuous batching, inside one jitted loop. Requests wait in a queue, one for
each part of the rows (`partwise`). In round r every slot draws a token: it
stands in column r of its texts, and the cache has it in column P + r, both
rings. A request's prompt is put into the P columns before, so all slots are
written in one column, and none is written over what it still needs.

Letters: Q requests, P tokens of a prompt, B slots, C of them that are filled at
once, N tokens at most of a text.
"""
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlft.ops import partwise
from rlft.ops.cache import Cache


class Texts(NamedTuple):
  """What was written for requests: their first `sizes` tokens."""
  tokens: Int[Array, 'Q N']
  log_probs: Float[Array, 'Q N']  # full softmax at the sampling temperature
  sampling_log_probs: Float[Array, 'Q N']  # of what was drawn from
  sizes: Int[Array, 'Q']

  @classmethod
  def empty(cls, rows: int, most: int, pad: int) -> 'Texts':
    """None of them has any token yet."""
    return cls(jnp.full((rows, most), pad, jnp.int32),
               jnp.zeros((rows, most)), jnp.zeros((rows, most)),
               jnp.zeros((rows,), jnp.int32))


class Slots(NamedTuple):
  """Rows that write, each for a request."""
  cache: Cache  # a ring of P + N columns
  round: Int[Array, '']
  requests: Int[Array, 'B']  # number of each in its part
  since: Int[Array, 'B']  # its first round
  done: Bool[Array, 'B']
  texts: Texts  # rings of N columns

  def last(self, pad: int) -> Int[Array, 'B 1']:
    """The tokens that were drawn last, pads for requests that have ended."""
    return jnp.where(self.done[:, None], pad, _column(
        self.texts.tokens, self.round))

  @property
  def column(self) -> Int[Array, '']:
    """Where the cache has them."""
    ring, most = self.cache.documents.shape[1], self.texts.tokens.shape[1]
    return (ring - most + self.round) % ring

  @classmethod
  def opened(
      cls, prompts: Cache, requests: Int[Array, 'B'], done: Bool[Array, 'B'],
      before: Int[Array, ''] | int, *, most: int, pad: int,
  ) -> 'Slots':
    """On these requests from the round on that comes after `before`."""
    rows = len(requests)
    cache = prompts.grown(most).rolled(before + 1)
    return cls(cache, jnp.asarray(before), requests,
               jnp.full((rows,), before + 1), done,
               Texts.empty(rows, most, pad))

  def wrote(
      self, token: Int[Array, 'B'], log_p: Float[Array, 'B'],
      drawn_log_p: Float[Array, 'B'], stops: Sequence[int],
  ) -> 'Slots':
    """After the next round, in which these were drawn."""
    most = self.texts.tokens.shape[1]
    round_ = self.round + 1

    def put(ring, new):  # one that has ended may wait for several turns of it
      new = jnp.where(self.done[:, None], _column(ring, round_), new[:, None])
      return jax.lax.dynamic_update_slice(ring, new, (0, round_ % most))

    sizes = self.texts.sizes + ~self.done
    ending = jnp.asarray(stops, jnp.int32)
    stopped = jnp.any(token[:, None] == ending[None], axis=1)
    texts = Texts(
        put(self.texts.tokens, token), put(self.texts.log_probs, log_p),
        put(self.texts.sampling_log_probs, drawn_log_p), sizes)
    return self._replace(
        round=round_, texts=texts,
        done=self.done | stopped | (sizes == most))

  def straight(self, pad: int) -> Texts:
    """Their texts from the first token on, pads and zeros after the last."""
    most = self.texts.tokens.shape[1]
    columns = jnp.arange(most)[None]
    at = (self.since[:, None] + columns) % most
    counts = columns < self.texts.sizes[:, None]

    def turned(ring, blank):
      return jnp.where(counts, jnp.take_along_axis(ring, at, axis=1), blank)

    tokens, log_p, drawn_log_p, sizes = self.texts
    return Texts(turned(tokens, pad), turned(log_p, 0.0),
                 turned(drawn_log_p, 0.0), sizes)

  def put(self, rows: Int[Array, 'C'], new: 'Slots', parts: int) -> 'Slots':
    """With new ones instead of these; a number beyond the part is no slot."""
    def put(x, y):
      return partwise.put(x, rows, y, parts)

    return self._replace(
        cache=self.cache.put(rows, new.cache, parts),
        requests=put(self.requests, new.requests),
        since=put(self.since, new.since), done=put(self.done, new.done),
        texts=jax.tree.map(put, self.texts, new.texts))


def _column(ring: Array, round_: Int[Array, '']) -> Array:
  return jax.lax.dynamic_slice_in_dim(
      ring, round_ % ring.shape[1], 1, axis=1)


class Queue(NamedTuple):
  """What is left to do, and what was done."""
  next: Int[Array, 'K']  # request of each part that is offered next
  texts: Texts  # of all requests

  def left(self) -> Int[Array, 'K']:
    """Requests of each part that no slot has had yet."""
    return len(self.texts.sizes) // len(self.next) - self.next

  def offered(
      self, done: Bool[Array, 'B'], at_once: int,
  ) -> tuple[Int[Array, 'C'], Int[Array, 'C'], 'Queue']:
    """Slots that are free, `at_once` of each part, and a request for each.

    Where there are fewer of either, numbers of slots that do not exist.
    """
    parts = len(self.next)
    free = done.reshape(parts, -1)
    rows = jnp.argsort(~free, axis=1, stable=True)[:, :at_once]
    nth = jnp.arange(at_once)[None]
    given = nth < jnp.minimum(
        jnp.sum(free, axis=1), self.left())[:, None]
    rows = jnp.where(given, rows, free.shape[1] + nth)
    requests = jnp.where(given, self.next[:, None] + nth, 0)
    return rows.reshape(-1), requests.reshape(-1), self._replace(
        next=self.next + jnp.sum(given, axis=1))

  def collected(
      self, slots: Slots, rows: Int[Array, 'C'], pad: int) -> 'Queue':
    """With the texts of these slots."""
    parts = len(self.next)
    most, count = (len(x) // parts for x in (self.texts.sizes, slots.done))
    to = jnp.where(rows < count, partwise.take(slots.requests, rows, parts),
                   most + rows - count)
    return self._replace(texts=jax.tree.map(
        lambda x, y: partwise.put(x, to, partwise.take(y, rows, parts), parts),
        self.texts, slots.straight(pad)))


def run(
    begin: Callable[[Int[Array, 'B'], Int[Array, ''] | int], Slots],
    step: Callable[[Slots], Slots], *, requests: int, slots: int, parts: int,
    pad: int,
) -> tuple[Texts, Int[Array, '']]:
  """Texts of all requests, in their order, and the number of steps.

  `begin` gives slots for requests after their first round, which comes after
  the one that it is told; `step` one more round. Ended ones are filled again as
  soon as an eighth of a part's are, or as many as it has requests left, so the
  loop ends when all are done. Nobody waits where there is a slot for each.
  """
  first = begin(partwise.numbers(slots, parts), -1)
  most = first.texts.tokens.shape[1]
  if slots == requests:
    last = jax.lax.while_loop(  # all have ended by the last of them; a plan of
        # the program reads there how many rounds it has at most
        lambda s: (s.round < most - 1) & ~jnp.all(s.done), step, first)
    return last.straight(pad), last.round
  at_once = max(slots // parts // 8, 1)

  def due(slots, queue):
    free = jnp.sum(slots.done.reshape(parts, -1), axis=1)
    left = queue.left()
    return jnp.any((left > 0) & (free >= jnp.minimum(left, at_once)))

  def refill(carry):
    slots, queue = carry
    slots = jax.lax.while_loop(
        lambda s: ~jnp.all(s.done) & ~due(s, queue), step, slots)
    rows, numbers, rest = queue.offered(slots.done, at_once)
    rest = rest.collected(slots, rows, pad)
    return slots.put(rows, begin(numbers, slots.round - 1), parts), rest

  queue = Queue(jnp.full((parts,), slots // parts), Texts.empty(
      requests, most, pad))
  slots, queue = jax.lax.while_loop(
      lambda c: ~jnp.all(c[0].done) | jnp.any(c[1].left() > 0), refill,
      (first, queue))
  queue = queue.collected(slots, partwise.numbers(len(slots.done), parts), pad)
  return queue.texts, slots.round
