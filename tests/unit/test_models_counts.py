"""Counts over recorded traffic against the stream's own counting, moment by moment."""

from __future__ import annotations

import numpy as np
import pytest

from models.counts import KINDS, Acts, CountsOverTime, acts_of
from models.featurise import ITEM_COUNTERS
from models.vocabulary import Vocabulary, build_vocabulary
from schemas.event import Event
from schemas.features import registry
from schemas.items import Item
from tests.fakes import DAY, HOUR, MINUTE, NOW, event
from udfs.logic.item_aggregates import (
    ACTIONS,
    SLICE_MS,
    AggregateState,
    advance,
    apply,
    columns_of,
    row_counts,
)
from udfs.logic.item_rates import COUNTERS, rates

ACTION = dict(zip(KINDS, ("impression", "click", "purchase")))


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return build_vocabulary(
        Item(item_id=f"{sub}-{number}", category=category, subcategory=sub)
        for category, sub in (("shoes", "boots"), ("shoes", "sandals"), ("light", "lamps"))
        for number in range(2)
    )


@pytest.fixture(scope="module")
def acts(vocabulary: Vocabulary) -> Acts:
    """40 days of clicks and what belongs to them, half of it in the last hours."""
    rng = np.random.Generator(np.random.PCG64(1))
    count = 3_000
    ago = np.where(rng.random(count) < 0.5, rng.integers(0, 3 * HOUR, count), rng.integers(0, 40 * DAY, count))
    rows = rng.integers(vocabulary.first_item, vocabulary.size, count).astype(np.int32)
    return Acts(rows, rng.choice(3, count, p=(0.6, 0.3, 0.1)).astype(np.uint8), NOW - ago)


def streamed(acts: Acts, chosen: np.ndarray, now_ms: int) -> dict[str, int]:
    """item-aggregates' row of what is chosen, with all that came before the slice that is under way."""
    columns = registry().item_columns()
    state = AggregateState()
    for place in sorted(np.flatnonzero(chosen & (acts.ts_ms < now_ms // SLICE_MS * SLICE_MS)), key=acts.ts_ms.item):
        action = ACTIONS.index(ACTION[KINDS[acts.kinds[place]]])
        apply(state, int(acts.ts_ms[place]) // SLICE_MS, [int(action == one) for one in range(len(ACTIONS))])
    advance(state, now_ms // SLICE_MS)
    return dict(zip([one.name for one in columns], row_counts(state, columns_of(registry()))))


def test_counters_are_those_of_the_stream(vocabulary: Vocabulary, acts: Acts) -> None:
    over_time = CountsOverTime(acts, vocabulary)
    for now_ms in (
        NOW,
        NOW - 7 * MINUTE,
        NOW - 2 * HOUR - 1,
        NOW - 5 * DAY,
        NOW - 39 * DAY,
        NOW - 50 * DAY,
        NOW + 90 * DAY,
    ):
        for row in (0, vocabulary.category_row[-1], vocabulary.subcategory_row[-1], vocabulary.first_item):
            if row == 0:
                chosen = np.ones(len(acts.rows), bool)
            else:
                chosen = (acts.rows == row) | (vocabulary.subcategory_row[acts.rows] == row)
                chosen |= vocabulary.category_row[acts.rows] == row
            wanted = streamed(acts, chosen, now_ms)
            found = over_time.counters(np.array(now_ms), np.array(row))
            assert {name: int(found[name]) for name in COUNTERS} == {name: wanted[name] for name in COUNTERS}


def test_features_are_the_rates_of_those_counters(vocabulary: Vocabulary, acts: Acts) -> None:
    over_time = CountsOverTime(acts, vocabulary)
    moments = np.array([NOW, NOW - 3 * DAY])
    rows = np.array([[vocabulary.first_item, vocabulary.size - 1, 2], [vocabulary.first_subcategory, 1, 7]])
    found = over_time.features(moments, rows)
    for now_ms, of_list, numbers in zip(moments, rows, found):
        for row, values in zip(of_list, numbers):
            levels = [
                0,
                vocabulary.category_row[row],
                vocabulary.subcategory_row[row],
                row if row >= vocabulary.first_item else 0,
            ]
            counted = [over_time.counters(np.array(now_ms), np.array(level)) for level in levels]
            chain = [
                {name: int(one[name]) * (level > 0 or not place) for name in COUNTERS}
                for place, (level, one) in enumerate(zip(levels, counted))
            ]
            wanted = rates(chain, 0.1)
            np.testing.assert_allclose(np.exp(values), [wanted[name] for name in ITEM_COUNTERS], rtol=1e-5)


def test_nothing_of_the_slice_under_way_is_counted(vocabulary: Vocabulary) -> None:
    """Contract: a list's own clicks are not in the features it is trained with."""
    begins = NOW // SLICE_MS * SLICE_MS
    row = vocabulary.first_item
    over_time = CountsOverTime(Acts(np.array([row, row]), np.array([1, 1]), np.array([begins - 1, begins])), vocabulary)
    at = [begins - 1, begins, begins + SLICE_MS - 1, begins + SLICE_MS]
    assert over_time.counters(np.array(at), np.array(row))["clicks_2h"].tolist() == [0, 1, 1, 2]


def test_without_traffic_every_feature_is_as_always(vocabulary: Vocabulary) -> None:
    nothing = Acts(np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(0, np.int64))
    assert not CountsOverTime(nothing, vocabulary).features(np.array([NOW]), np.array([[1, 7, 8]])).any()


def test_acts_are_impressions_clicks_and_order_lines(vocabulary: Vocabulary) -> None:
    order = {"order_id": "o", "items": [{"item_id": "boots-0", "quantity": 3}, {"item_id": "lamps-1"}]}
    events: list[Event] = [
        event("impression", "boots-1"),
        event("click", "boots-1"),
        event("click", "unheard-of"),
        event("view", "boots-1"),
        event("purchase", None, props=order),
    ]
    found = acts_of(events, vocabulary)
    named = [(vocabulary.ids[row], KINDS[kind]) for row, kind in zip(found.rows, found.kinds)]
    assert named == [
        ("boots-1", "impressions"),
        ("boots-1", "clicks"),
        ("boots-0", "purchases"),
        ("lamps-1", "purchases"),
    ]
