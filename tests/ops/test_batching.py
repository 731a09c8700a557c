"""Slots, with a model by hand: a token depends on all that is cached of it."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlft.ops import attention, batching, partwise
from rlft.ops.cache import Cache

PAD, BOS, STOPS, WORDS = 0, 1, (2, 3), 23
WIDTH, MOST = 5, 7
PROMPTS = np.array([
    [0, 0, 0, 1, 9], [0, 1, 7, 8, 21], [1, 5, 6, 8, 14], [0, 0, 0, 0, 0],
    [0, 0, 0, 1, 17], [0, 0, 1, 4, 4]], np.int32)
REQUESTS = 24


def drawn(states, requests, n):
  """The token after these states, and two numbers that tell it from others."""
  token = (states + 5 * requests + 3 * n) % WORDS
  return token, states.astype(float), requests * 100.0 + n


def attended(tokens, positions):
  """What a later token makes of one at a position."""
  return (tokens * (1 + positions)).astype(float)


def document(row, bos):
  """The tokens of a row that its next one may look at."""
  if bos is not None:
    row = [t for t in row if t != PAD]
    return row[max(i for i, t in enumerate(row) if t == bos):]
  # one that begins after a pad; while there is none, the one before goes on
  end = max(i for i, t in enumerate(row) if t != PAD) + 1
  return row[max([i + 1 for i in range(end) if row[i] == PAD], default=0):end]


def by_hand(prompt, request, bos):
  """The text of a request: without a cache, slots or rounds."""
  row, text, states = [int(t) for t in prompt], [], []
  while any(row) and len(text) < MOST:
    states.append(sum(t * (1 + i) for i, t in enumerate(document(row, bos))))
    text.append((states[-1] + 5 * request + 3 * len(text)) % WORDS)
    row.append(text[-1])
    if text[-1] in STOPS:
      break
  return text, states


def extended(cache, tokens, bos):
  """The cache with these tokens, and the states after the last of them."""
  layout, documents = attention.extend(
      cache.documents, cache.index, tokens, PAD, bos)
  new = attended(tokens, layout.positions)
  put = jax.lax.dynamic_update_slice
  keys = put(cache.keys, new[None, :, None, None], (0, 0, 0, 0, cache.index))
  values = put(
      cache.values, new[None, :, None, :, None], (0, 0, 0, cache.index, 0))
  seen = layout.attend[:, -1]
  states = jnp.sum(jnp.where(seen, keys[0, :, 0, 0], 0), axis=1)
  twin = jnp.sum(jnp.where(seen, values[0, :, 0, :, 0], 0), axis=1)
  return states.astype(jnp.int32) + 10_000 * (states != twin), Cache(
      keys, values, documents, cache.index + tokens.shape[1])


@functools.partial(jax.jit, static_argnames=('slots', 'parts', 'bos'))
def run(prompts, of, *, slots, parts, bos):
  """Texts, and how many steps they took."""
  states, cache = extended(Cache.empty(
      *prompts.shape, layers=1, heads=1, size=1, dtype=jnp.float32),
      prompts, bos)

  def draw(now, states):
    part = jnp.arange(len(now.requests)) // (len(now.requests) // parts)
    token, *numbers = drawn(
        states, now.requests + part * (len(of) // parts), now.texts.sizes)
    return now.wrote(token, *numbers, STOPS)

  def begin(requests, before):
    which = partwise.take(of, requests, parts)
    empty = jnp.all(prompts == PAD, axis=1)
    return draw(batching.Slots.opened(
        cache.taken(which, parts), requests,
        (which < 0) | partwise.take(empty, which, parts), before, most=MOST,
        pad=PAD), partwise.take(states, which, parts))

  def step(now):
    states, cache = extended(
        now.cache._replace(index=now.column), now.last(PAD), bos)
    return draw(now._replace(cache=cache), states)

  return batching.run(
      begin, step, requests=len(of), slots=slots, parts=parts, pad=PAD)


def asked(seed):
  """Prompts of two parts, and whose each request is; some have none."""
  of = np.random.default_rng(seed).integers(-1, 3, REQUESTS)
  of[:2] = 0, 1  # a text of one token, and a long one
  return of.astype(np.int32)


def wanted(of, request, bos):
  half = request // (REQUESTS // 2)
  return by_hand(PROMPTS[3 * half + of[request]] if of[request] >= 0 else [],
                 request, bos)


@pytest.mark.parametrize('slots, parts, bos', [
    (24, 2, BOS), (1, 1, BOS), (2, 2, BOS), (3, 1, None), (8, 1, BOS),
    (8, 2, None), (22, 2, BOS)])
def test_texts_are_those_of_each_request_by_itself(slots, parts, bos):
  """Also of more slots than requests that have a prompt."""
  for seed in range(4):
    of = asked(seed)
    own = of if parts == 2 else np.where(
        of < 0, of, of + 3 * (np.arange(REQUESTS) >= REQUESTS // 2))
    texts, steps = jax.device_get(run(
        jnp.asarray(PROMPTS), jnp.asarray(own), slots=slots, parts=parts,
        bos=bos))
    sizes = []
    for request in range(REQUESTS):
      text, states = wanted(of, request, bos)
      size = len(text)
      sizes.append(size)
      assert texts.sizes[request] == size
      assert texts.tokens[request].tolist() == text + [PAD] * (MOST - size)
      assert texts.log_probs[request].tolist() == states + [0] * (MOST - size)
      assert texts.sampling_log_probs[request].tolist() == [
          100 * request + n for n in range(size)] + [0] * (MOST - size)
    assert {0, 1, MOST} < set(sizes)
    longest = max(max(size - 1, 0) for size in sizes)
    total = sum(max(size - 1, 0) for size in sizes)
    assert max(longest, -(-total // slots)) <= steps
    if slots == 1:
      assert steps == total
    elif slots == REQUESTS:
      assert steps == longest
    else:  # nobody waits longer than for the eighth of a part
      assert steps < total


def test_a_queue_offers_what_is_left_to_who_is_free():
  queue = batching.Queue(
      jnp.array([1, 3]), batching.Texts.empty(8, MOST, PAD))
  done = jnp.array([False, True, True, True, False, False, True, True])
  assert queue.left().tolist() == [3, 1]
  rows, requests, after = queue.offered(done, 2)
  assert rows.tolist() == [1, 2, 2, 5]  # 5: there are four slots in a part
  assert requests.tolist() == [1, 2, 3, 0]
  assert after.left().tolist() == [1, 0]


@pytest.mark.parametrize('parts', [1, 2])
def test_rows_are_taken_and_put_by_their_numbers_in_their_part(parts):
  x = np.arange(24).reshape(2, 6, 2)
  size = 6 // parts
  for _ in range(3):
    rows = np.concatenate([
        np.random.default_rng(0).permutation(size)[:2] for _ in range(parts)])
    whole = rows + np.repeat(np.arange(parts) * size, 2)
    found = partwise.take(jnp.asarray(x), jnp.asarray(rows), parts, axis=1)
    np.testing.assert_array_equal(found, x[:, whole])
    rows[0] = size + 1  # no row
    new = -np.arange(4 * 2 * parts).reshape(2, 2 * parts, 2) - 1
    want = x.copy()
    want[:, whole[1:]] = new[:, 1:]
    np.testing.assert_array_equal(partwise.put(
        jnp.asarray(x), jnp.asarray(rows), jnp.asarray(new), parts, axis=1),
        want)
