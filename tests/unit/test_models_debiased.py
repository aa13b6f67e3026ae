"""Popularity by inverse propensity: chance undoes what the shop chose to show."""

from __future__ import annotations

import numpy as np
import pytest

from models.debiased import FEWEST_PLACES, TooFewPlaces, click_rates, debiased
from models.own_log import ShownList
from models.vocabulary import Vocabulary, build_vocabulary
from schemas.items import Item
from tests.fakes import NOW

ITEMS = [Item(item_id=f"i{number}", category="c", subcategory="s") for number in range(6)]
TRUE = np.array([0.30, 0.25, 0.20, 0.15, 0.10, 0.05])
LIKED = np.array([0.02, 0.03, 0.05, 0.10, 0.30, 0.50])  # the shop loves what is clicked least


def lists_of_a_shop(count: int) -> list[ShownList]:
    """Two places: the shop's favourite, always; and one that chance fills with what the shop likes."""
    chance = np.random.Generator(np.random.PCG64(5))
    found = []
    for _ in range(count):
        drawn = int(chance.choice(6, p=LIKED))
        items, clicked = ("i5", f"i{drawn}"), tuple((chance.random(2) < TRUE[[5, drawn]]).tolist())
        found.append(ShownList(NOW, items, clicked, (False,) * 2, (False,) * 2, (1.0, float(LIKED[drawn]))))
    return found


def counted(lists: list[ShownList], vocabulary: Vocabulary) -> np.ndarray:
    clicks = np.zeros(vocabulary.size, np.float32)
    for one in lists:
        for item, clicked in zip(one.items, one.clicked):
            clicks[vocabulary.rows([item])[0]] += clicked
    return clicks


def test_what_is_shown_more_counts_no_more() -> None:
    """Contract: clicks put the shop's favourite first; by propensity the order is that of the true rates."""
    vocabulary, lists = build_vocabulary(ITEMS), lists_of_a_shop(20_000)
    rows = vocabulary.rows([item.item_id for item in ITEMS])
    clicks = counted(lists, vocabulary)
    assert clicks[rows].argmax() == 5
    rates = click_rates(lists, vocabulary)
    assert (rates.places, rates.unknown) == (20_000, 0)
    np.testing.assert_allclose(rates.rate[rows], TRUE, atol=0.04)
    found = debiased(clicks, rates, vocabulary)
    assert np.argsort(-found[rows]).tolist() == list(range(6))
    assert found[rows].sum() == pytest.approx(clicks.sum(), rel=1e-4)  # the same clicks, shared out otherwise
    assert found[vocabulary.rows(["never heard of"])[0]] == pytest.approx(found[rows].mean(), rel=1e-4)


def test_an_item_that_chance_never_showed_has_the_mean() -> None:
    vocabulary = build_vocabulary([*ITEMS, Item(item_id="new", category="c", subcategory="s")])
    rates = click_rates(lists_of_a_shop(2_000), vocabulary)
    row = vocabulary.rows(["new"])[0]
    assert rates.effective[row] == 0
    assert 0.05 < rates.rate[row] < 0.3


def test_without_chance_there_is_nothing_to_go_by() -> None:
    """Contract: places that were filled without chance, and those of which it is unknown, do not count."""
    certain = [ShownList(NOW, ("i1", "i2"), (True, True), (False,) * 2, (False,) * 2, (1.0, None))] * FEWEST_PLACES
    with pytest.raises(
        TooFewPlaces, match=rf"filled 0 places of the lists \({FEWEST_PLACES} more have no propensity\)"
    ):
        click_rates(certain, build_vocabulary(ITEMS))
