"""Past: what is made of a log, that nothing later is in it, and that it can stop and go on between any two steps."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.features import registry
from schemas.features_row import RowKey
from schemas.items import Item
from schemas.ranking import Freshness, RankedItem, RankedList, Receipt, encode_json
from tests.fakes import HOUR, MINUTE, NOW, raw
from udfs.logic.attribution import Rules
from udfs.logic.item_aggregates import ACTIONS
from udfs.logic.past import EVENT, ITEM, LIST, SERVED, Dump, Made, Past, Step

RULES = Rules()
ITEMS = [f"item-{n}" for n in range(6)]
END = NOW + 3 * HOUR


def listed(list_id: str, key: str, created_ms: int, items: list[str]) -> bytes:
    freshness = Freshness(event_no=0, last_event_id=None, last_event_ts_ms=None, recent=[], offsets={})
    receipt = Receipt(freshness, "b1", "r1", "p1", {0: 7}, {}, {}, {})
    places = [RankedItem(item, 1.0 - n / 10, "popular") for n, item in enumerate(items)]
    return encode_json(RankedList(list_id, key, "home", 1, 9, created_ms, places, receipt, "click"))


def a_log(seed: int, events: int = 150) -> list[Step]:
    """Three hours of four users: lists and what is done with them, late, doubled, unreadable and anonymous events."""
    rng = random.Random(seed)
    steps = [
        Step(0, ITEM, 0, n, item, msgspec.json.encode(Item(item_id=item, category="c", subcategory=f"s{n % 2}")))
        for n, item in enumerate(ITEMS)
    ]
    offset, lists = 100, list[tuple[str, str, list[str]]]()
    for number in range(events):
        at_ms = NOW + rng.randrange(3 * HOUR)
        user, session = f"user-{rng.randrange(4)}", f"s{rng.randrange(6)}"
        offset += 1
        if rng.random() < 0.15 or not lists:
            items = rng.sample(ITEMS, 3)
            lists.append((f"L{number}", user, items))
            value = listed(f"L{number}", f"u:{user}", at_ms, items)
            steps += [Step(at_ms, SERVED, 1, offset, None, value), Step(at_ms + 3, LIST, 1, offset, None, value)]
            continue
        list_id, user, items = rng.choice(lists)
        kind = rng.choice(["impression", "impression", "click", "view", "add_to_cart", "purchase", "like"])
        ts_ms = at_ms - rng.choice([0, 0, 0, 5_000, 30 * MINUTE, 3 * HOUR, 30 * HOUR])
        known = None if rng.random() < 0.2 else user
        props: dict[str, Any] = {"list_id": list_id, "surface": "home"} if kind == "impression" else {}
        if kind == "purchase":
            props = {"order_id": "o", "items": [{"item_id": item} for item in rng.sample(items, 2)]}
        item = None if kind == "purchase" else rng.choice(items)
        value = raw(kind, item, event_id=f"e{number}", ts_ms=ts_ms, user_id=known, session_id=session, props=props)
        key = f"u:{user}" if known else f"s:{session}"
        steps.append(Step(at_ms, EVENT, 0, offset, key, value if rng.random() > 0.03 else b"{"))
        if rng.random() < 0.1:
            steps.append(Step(at_ms + 700, EVENT, 0, offset + 1_000_000, key, value))
    return sorted(steps, key=lambda step: step[:4])


def told(made: Made) -> dict[str, Any]:
    return {name: getattr(made, name) for name in Made.__slots__}


def run(steps: list[Step], until_ms: int = END) -> Made:
    past, made = Past(registry(), RULES), Made()
    for step in steps:
        past.take(step, made)
    past.finish(until_ms, made)
    return made


def test_everything_that_is_made_is_there() -> None:
    made = run(a_log(1))
    assert made.rows and made.unmatched and made.item_rows and made.served and made.refused
    assert {one.reason for one in made.refused} == {"not_json", "late"}


@given(seed=st.integers(0, 10_000), cut=st.floats(0.0, 1.0))
@settings(max_examples=15, deadline=None)
def test_it_can_stop_and_go_on_between_any_two_steps(seed: int, cut: float) -> None:
    steps = a_log(seed, 60)
    place = int(cut * len(steps))
    first, made = Past(registry(), RULES), Made()
    for step in steps[:place]:
        first.take(step, made)
    second = Past(registry(), RULES)
    second.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(first.dump()), type=Dump))
    for step in steps[place:]:
        second.take(step, made)
    second.finish(END, made)
    assert told(made) == told(run(steps))


@given(seed=st.integers(0, 10_000), cut=st.floats(0.1, 0.9))
@settings(max_examples=15, deadline=None)
def test_the_future_changes_nothing_in_the_past(seed: int, cut: float) -> None:
    """Contract: other events, lists and items from a moment on, and all that was made before it is as it was."""
    steps, cut_ms = a_log(seed, 60), NOW + int(cut * 3 * HOUR)
    before = [step for step in steps if step.at_ms < cut_ms]
    after = [step for step in a_log(seed + 1, 60) if step.at_ms >= cut_ms]

    def until_the_cut(given: list[Step]) -> dict[str, Any]:
        past, made = Past(registry(), RULES), Made()
        for step in given:
            if step.at_ms >= cut_ms:
                break
            past.take(step, made)
        past.advance(cut_ms - 1, made)
        return told(made)

    def of_the_past(made: Made) -> dict[str, Any]:
        early = {
            "rows": [one for one in made.rows if one[0] < cut_ms],
            "unmatched": [one for one in made.unmatched if one[0] < cut_ms],
            "served": [one for one in made.served if one.created_ms < cut_ms],
            "refused": [one for one in made.refused if one.at_ms < cut_ms],
        }
        return early | {"item_rows": [one for one in made.item_rows if one.as_of_ms < cut_ms]}

    assert of_the_past(run(before)) == of_the_past(run([*before, *after]))
    assert of_the_past(run(steps))["served"] == until_the_cut(steps)["served"]


def test_features_of_a_list_are_those_of_the_moment_it_was_made() -> None:
    """Contract: counts are what an oracle counts in the events appended before the list was made; exactly, on random logs."""
    steps = a_log(3)
    made = run(steps)
    ids = Past(registry(), RULES).feature_ids
    clicks, carts = ids.index("clicks_2h@1"), ids.index("carts_28d@1")
    compared = 0
    for one in made.served:
        seen = set[tuple[str | None, str]]()
        counted: dict[tuple[str, str], Counter[str]] = {}
        for step in steps:
            if step.kind != EVENT or step.at_ms >= one.created_ms or step.value == b"{":
                continue
            event = msgspec.json.decode(step.value or b"")
            ts_ms = event["ts_ms"]
            if (step.key, event["event_id"]) in seen or step.at_ms - ts_ms > 2 * HOUR:
                continue
            seen.add((step.key, event["event_id"]))
            slice_no, now_no = ts_ms // (5 * MINUTE), one.created_ms // (5 * MINUTE)
            for window, inside in (("2h", slice_no > now_no - 24), ("28d", True)):
                if inside and event.get("item_id"):
                    counted.setdefault((event["event_type"], window), Counter())[event["item_id"]] += 1
        for item, values in zip(one.item_ids, one.values):
            assert values[carts] == counted.get(("add_to_cart", "28d"), Counter())[item]
            # A window ends with its key's newest slice until time takes something out of it: never is more in it.
            assert values[clicks] == counted.get(("click", "2h"), Counter())[item]
            compared += 1
    assert compared > 20


def test_a_new_row_says_what_left_the_windows() -> None:
    click = raw("click", "a", event_id="e1", ts_ms=NOW, user_id="ann", session_id="s")
    made = run([Step(NOW, EVENT, 0, 1, "u:ann", click)], until_ms=NOW + 3 * HOUR)
    of_item = [one for one in made.item_rows if one.key == RowKey("item", "a")]
    columns = [one.name for one in registry().item_columns()]
    assert [one.counts[columns.index("clicks_2h")] for one in of_item] == [1, 0]
    assert [one.counts[columns.index("clicks_28d")] for one in of_item] == [1, 1]
    assert of_item[1].as_of_ms - of_item[0].as_of_ms >= 2 * HOUR


@pytest.mark.parametrize(
    ("kind", "value"), [(LIST, b"no list"), (SERVED, b"{}"), (ITEM, b'{"item_id": "a", "price": -1}')]
)
def test_what_cannot_be_read_is_named_with_its_place(kind: str, value: bytes) -> None:
    made = run([Step(NOW, kind, 3, 77, "a", value)])
    assert [(one.kind, one.partition, one.offset, one.reason) for one in made.refused] == [
        (kind[2:], 3, 77, "unreadable")
    ]


def test_every_action_is_counted_once_for_each_key() -> None:
    assert len(ACTIONS) == 9
    click = raw(
        "click", "a", event_id="e1", ts_ms=NOW, user_id="ann", session_id="s",
        props={"surface": "home", "context": {"device": "mobile", "geo": "de"}},
    )  # fmt: skip
    item = msgspec.json.encode(Item(item_id="a", category="shoes", subcategory="boots"))
    made = run([Step(0, ITEM, 0, 0, "a", item), Step(NOW, EVENT, 0, 1, "u:ann", click)], until_ms=NOW + 1)
    assert {str(one.key) for one in made.item_rows} == {
        "item|a", "all|", "surface|home", "device|mobile", "geo|de", "hour|00", "subcategory|boots", "category|shoes"
    }  # fmt: skip
    of_clicks = [one.name for one in registry().item_columns() if "click" in one.sources]
    assert {sum(one.counts) for one in made.item_rows} == {len(of_clicks)}
