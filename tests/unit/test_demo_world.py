"""The demo world is frozen, and is the shop that the issue describes."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np

from demo.catalogue import CATEGORIES, STORY, SUBCATEGORIES
from demo.tastes import DEFAULT_SHOPPERS, FIRST_UNSEEN, Memory, intent_probabilities, meet
from demo.world import CHECKSUM, DAY_MS, HOUR_MS, NATURE, VERSION, load, trend
from schemas.items import decode_item

NOW_MS = 1_768_938_120_000


def test_the_world_has_not_changed() -> None:
    """Contract: a bundle trained on this world is measured on this world. To change it, raise VERSION."""
    assert VERSION == "1"
    assert load().checksum() == CHECKSUM


def test_the_checksum_sees_every_hidden_number() -> None:
    world = load()
    quality = world.quality.copy()
    quality[4_321] += 0.001
    assert msgspec.structs.replace(NATURE, new_intent=0.2) != NATURE
    changed = type(world)(**{**vars(world), "quality": quality})
    assert changed.checksum() != CHECKSUM


def test_the_shoppers_have_not_changed() -> None:
    """Shoppers are drawn, not stored: their fingerprint is frozen too."""
    world, digest = load(), hashlib.sha256()
    for number in (*range(20), *range(FIRST_UNSEEN, FIRST_UNSEEN + 20)):
        shopper = meet(world, number)
        for column in (shopper.tastes, shopper.style, np.array([shopper.price_level, shopper.visits_per_day])):
            digest.update(np.rint(column * 1000).astype("<i8").tobytes())
    assert digest.hexdigest() == "18771c0ea889d5325f8620293a27e6aea0beb7bfb8f717e0b2477b1ebf5bd48f"


def test_catalogue_is_5000_items_in_8_categories_and_40_subcategories() -> None:
    items = load().items
    assert len(items) == 5_000
    assert {item.category for item in items} == set(CATEGORIES)
    assert len(CATEGORIES) == 8
    assert {item.subcategory for item in items} == set(SUBCATEGORIES)
    assert len(SUBCATEGORIES) == 40
    assert (
        len({item.item_id for item in items})
        == len({item.title for item in items if item.category == "videos"}) + 4_375
    )
    by_title = {item.title: item for item in items}
    for subcategory, title, item_id in STORY:
        assert (by_title[title].item_id, by_title[title].subcategory) == (item_id, subcategory)


def test_items_are_items_of_the_schema() -> None:
    for item in load().items:
        assert decode_item(msgspec.json.encode(item)) == item


def test_goods_have_prices_and_stock_and_videos_neither() -> None:
    for item in load().items:
        if item.category == "videos":
            assert item.price == 0.0
            assert item.stock is None
        else:
            assert item.price
            assert item.price > 0
            assert item.stock is not None
    sold_out = [item for item in load().items if item.stock == 0]
    assert 80 < len(sold_out) < 180  # about 3 % of 4,375


def test_a_shopper_is_always_the_same_and_differs_from_others() -> None:
    world = load()
    assert np.array_equal(meet(world, 7).appeal, meet(world, 7).appeal)
    favourites = {tuple(np.flatnonzero(meet(world, number).tastes)) for number in range(50)}
    assert len(favourites) > 45
    assert meet(world, 7).user_id == "shopper-000007"
    assert DEFAULT_SHOPPERS < FIRST_UNSEEN


def test_intents_follow_tastes_hours_follows_and_trend() -> None:
    world, shopper = load(), meet(load(), 3)
    quiet = intent_probabilities(world, shopper, Memory(), NOW_MS)
    assert quiet.sum() == np.float64(1.0) or abs(quiet.sum() - 1) < 1e-12
    disliked = int(np.flatnonzero(shopper.tastes == 0)[0])
    assert intent_probabilities(world, shopper, Memory(follows={disliked}), NOW_MS)[disliked] > 2 * quiet[disliked]
    favourite = int(np.argmax(shopper.tastes))
    by_hour = [intent_probabilities(world, shopper, Memory(), NOW_MS + h * HOUR_MS)[favourite] for h in range(24)]
    assert max(by_hour) > 1.3 * min(by_hour)
    assert quiet[shopper.tastes == 0].sum() > 0.5 * NATURE.new_intent


def test_trend_bursts_last_a_window_and_move_on() -> None:
    start = NOW_MS // DAY_MS * DAY_MS
    assert np.array_equal(trend(start), trend(start + HOUR_MS * NATURE.trend_hours - 1))
    bursting = {int(np.argmax(trend(start + window * NATURE.trend_hours * HOUR_MS))) for window in range(60)}
    assert len(bursting) > 10
