"""Ranks, names, face rules and the ways to deal."""
import collections

import numpy as np
import pytest

from rlft.ops import cards


def test_names_and_values_under_both_rules():
  ranks = (1, 2, 10, 11, 12, 13)
  assert cards.names(ranks) == ['A', '2', '10', 'J', 'Q', 'K']
  assert cards.values(ranks, (10, 10, 10)) == (1, 2, 10, 10, 10, 10)
  assert cards.values(ranks, (11, 12, 13)) == ranks
  assert cards.other_faces((10, 10, 10)) == (11, 12, 13)
  assert cards.other_faces((11, 12, 13)) == (10, 10, 10)
  assert cards.other_faces((7, 7, 7)) == (10, 10, 10)


def deal(n, count, **rules):
  rng = np.random.default_rng(0)
  return [cards.draw(rng, count, **rules) for _ in range(n)]


@pytest.mark.parametrize('deck', cards.DECKS)
def test_every_rank_is_equally_likely_in_every_place(deck):
  hands = np.array(deal(6000, 4, deck=deck))
  for place in range(4):
    shares = np.bincount(hands[:, place], minlength=14)[1:] / len(hands)
    np.testing.assert_allclose(shares, 1 / 13, atol=0.015)


def test_chance_of_a_pair_with_and_without_replacement():
  # All different: 12 11 10 / 13^3 with replacement, 48 44 40 / 51 50 49 dealt.
  for deck, different in (('independent', 1320 / 2197),
                          ('52', 84_480 / 124_950)):
    hands = deal(6000, 4, deck=deck)
    share = np.mean([len(set(h)) == 4 for h in hands])
    assert share == pytest.approx(different, abs=0.02)


def test_a_deck_has_four_cards_of_a_rank():
  dealt = deal(3000, 30, deck='52')
  most = [max(collections.Counter(h).values()) for h in dealt]
  assert max(most) == 4
  whole = deal(1, 52, deck='52')[0]
  assert collections.Counter(whole) == dict.fromkeys(range(1, 14), 4)
  whole = deal(1, 52, deck='52', ensure_face=True)[0]
  assert collections.Counter(whole) == dict.fromkeys(range(1, 14), 4)


@pytest.mark.parametrize('deck', cards.DECKS)
def test_an_ensured_face_is_in_any_place(deck):
  hands = np.array(deal(6000, 4, deck=deck, ensure_face=True))
  faces = hands > 10
  assert faces.any(axis=1).all()
  # One sure face of four, the other three at 3/13 (3/13-ish when dealt).
  np.testing.assert_allclose(
      faces.mean(axis=0), (1 + 3 * 3 / 13) / 4, atol=0.03)
  for rank in (11, 12, 13):
    assert (hands == rank).mean() == pytest.approx(
        faces.mean() / 3, abs=0.015)


def test_refuses_an_unknown_deck():
  with pytest.raises(ValueError, match='known: independent, 52'):
    deal(1, 4, deck='tarot')
