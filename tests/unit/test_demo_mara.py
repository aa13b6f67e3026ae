"""Mara's worked example (source 3) is true in the demo world: a model trained on it can learn the story."""

from __future__ import annotations

import msgspec
import pytest

from demo import mara
from demo.world import DAY_MS, HOUR_MS, load
from schemas.event import Follow, parse_event


def test_before_and_after_are_the_true_orders() -> None:
    world = load()
    assert tuple(mara.true_order(world)) == mara.BEFORE
    assert tuple(mara.true_order(world, mara.MARATHON)) == mara.AFTER


def test_trail_goes_from_rank_4_to_rank_1() -> None:
    assert mara.BEFORE.index(mara.TRAIL) == 3
    assert mara.AFTER.index(mara.TRAIL) == 0


def test_twelve_seconds_of_pasta_do_not_lift_the_trail() -> None:
    assert mara.true_order(load(), mara.PASTA).index(mara.TRAIL) >= 3


def test_the_story_holds_at_almost_any_hour() -> None:
    """An end-to-end test runs at whatever hour it is; only bursts of trend may disturb it."""
    world, midnight = load(), mara.STORY_MS // DAY_MS * DAY_MS
    hours = [midnight + hour * HOUR_MS for hour in range(7 * 24)]
    rises = [
        mara.true_order(world, None, now).index(mara.TRAIL) == 3
        and mara.true_order(world, mara.MARATHON, now)[0] == mara.TRAIL
        for now in hours
    ]
    assert sum(rises) >= 0.9 * len(rises)


@pytest.mark.parametrize("within_ms", [None, 20 * HOUR_MS])
def test_history_is_valid_in_order_and_in_sessions(within_ms: int | None) -> None:
    history = mara.history(mara.STORY_MS, within_ms)
    events = [parse_event(msgspec.json.encode(event)) for event in history]
    assert all(event.user_id == "mara" for event in events)  # type: ignore[union-attr]
    times = [event["ts_ms"] for event in history]
    assert times == sorted(times)
    assert len({event["event_id"] for event in history}) == len(history)
    assert within_ms is None or times[0] >= mara.STORY_MS - within_ms
    last: dict[str, int] = {}
    for event in history:
        if event["session_id"] not in last and last:
            assert event["ts_ms"] - max(last.values()) > 30 * 60_000
        last[event["session_id"]] = event["ts_ms"]
    assert len(last) == 9
    assert mara.STORY_MS - times[-1] > 30 * 60_000
    assert [event.props.target for event in events if isinstance(event, Follow)] == ["running"]
    watched = [event["item_id"] for event in history if event["event_type"] == "view"]
    assert all(item_id in load().index and item_id not in mara.CANDIDATES for item_id in watched)


def test_history_refuses_to_be_squeezed_into_one_session() -> None:
    with pytest.raises(ValueError, match="at least 10 hours"):
        mara.history(mara.STORY_MS, HOUR_MS)


def test_today_is_valid() -> None:
    now = mara.STORY_MS
    events = [
        *mara.opens_feed(now),
        *mara.watches(mara.MARATHON, now),
        mara.watches_marathon(now),
        mara.watches_pasta(now),
    ]
    for event in events:
        assert parse_event(msgspec.json.encode(event)).user_id == "mara"  # type: ignore[union-attr]
    assert mara.watches_marathon(now)["ts_ms"] == now
    assert mara.watches_marathon(now)["props"]["dwell_ms"] == 12_000
