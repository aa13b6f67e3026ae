"""UpdateTopLists and StoreTopLists on fakes: what is stored, timed, counted and emitted. How it is counted is in
tests/unit/test_top_lists.py."""

from __future__ import annotations

from typing import Any

import pytest
from pyflink.common import Row

from schemas import topics
from schemas.connections import Connections
from schemas.top_lists import KINDS, TopList, decode_top_list, encode_top_list
from tests.fakes import DAY, NOW, FakeClock, FakeContext, FakeRuntimeContext
from tests.operator.test_aggregate_items import FakeWriter
from udfs import update_top_lists
from udfs.logic.item_aggregates import SLICE_MS
from udfs.logic.top_lists import LIMITS
from udfs.store_top_lists import StoreTopLists
from udfs.update_top_lists import UpdateTopLists

SLICE = NOW // SLICE_MS


class Harness:
    """The operator with one key, opened."""

    def __init__(self, key: str = "device|mobile") -> None:
        self.runtime, self.context = FakeRuntimeContext(), FakeContext(key)
        self.operator = UpdateTopLists(7, "test-")
        self.operator.open(self.runtime)

    def delta(self, sessions: dict[str, int], slice_no: int = SLICE) -> list[Any]:
        return list(self.operator.process_element(Row(slice_no, sessions), self.context))

    def fire(self) -> list[Any]:
        at_ms = min(self.context.timers.event_timers)
        self.context.timers.event_timers.discard(at_ms)
        return list(self.operator.on_timer(at_ms, self.context))


def lists(emitted: list[Any]) -> list[TopList]:
    return [decode_top_list(row[2]) for row in emitted]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock(NOW / 1000)
    monkeypatch.setattr(update_top_lists, "time", clock)
    return clock


def test_a_delta_becomes_a_list_under_its_key() -> None:
    (row,) = Harness().delta({"shoe-7": 2, "boot-1": 3, "once": 1})
    assert (row[0], row[1]) == (f"test-{topics.TOP_LISTS}", b"device|mobile")
    assert decode_top_list(row[2]) == TopList(
        7, NOW, (SLICE + 1) * SLICE_MS, DAY, 6.0, ["boot-1", "shoe-7"], [3.0, 2.0]
    )


def test_what_changes_no_place_emits_nothing_and_is_kept() -> None:
    harness = Harness()
    harness.delta({"boot-1": 3, "shoe-7": 2})
    assert harness.delta({"boot-1": 1}) == []
    (after,) = lists(harness.delta({"shoe-7": 3}))
    assert (after.items, after.weights, after.list_no) == (["shoe-7", "boot-1"], [5.0, 4.0], NOW + 1)


def test_one_session_is_counted_but_is_no_list() -> None:
    harness = Harness()
    assert harness.delta({"boot-1": 1}) == []
    assert [one.items for one in lists(harness.delta({"boot-1": 1}))] == [["boot-1"]]


def test_time_takes_out_the_list_and_then_the_state() -> None:
    """Contract: the first timer empties the list, the second the state; then there is neither state nor timer."""
    harness = Harness()
    harness.delta({"boot-1": 3})
    assert [one.items for one in lists(harness.fire())] == [[]]
    assert harness.runtime.state.stored is not None
    assert harness.fire() == []
    assert harness.runtime.state.stored is None
    assert harness.context.timers.event_timers == set()


def test_a_timer_that_comes_too_early_sets_the_next() -> None:
    harness = Harness()
    harness.delta({"boot-1": 3})
    harness.delta({"boot-1": 2})
    assert len(harness.context.timers.event_timers) == 1
    assert harness.fire() == []
    (later,) = harness.context.timers.event_timers
    assert later > NOW + DAY * 1.7


def test_lists_go_on_upwards_after_state_was_cleared(clock: FakeClock) -> None:
    harness = Harness()
    harness.delta({"boot-1": 3})
    (empty,) = lists(harness.fire())
    harness.fire()
    clock.now += 1
    (again,) = lists(harness.delta({"boot-1": 3}, SLICE + 60 * 288))
    assert again.list_no > empty.list_no


@pytest.mark.parametrize("kind", ["late", "flagged", "not_allowed"])
def test_what_is_left_out_is_counted_only(kind: str) -> None:
    harness = Harness(f"{kind}|")
    assert harness.delta({"boot-1": 3, "shoe-7": 1}) == []
    assert harness.runtime.metrics.counts() == {f"choices_{kind}": 4}
    assert harness.runtime.state.stored is None


def test_every_kind_of_list_has_its_limits() -> None:
    assert tuple(LIMITS) == KINDS


def store(writer: FakeWriter) -> tuple[StoreTopLists, FakeRuntimeContext]:
    runtime = FakeRuntimeContext()
    operator = StoreTopLists(Connections(brokers="b:1", redis_url="redis://r:1/0"))
    operator.open(runtime)
    operator._redis = writer  # type: ignore[assignment]
    return operator, runtime


def record(*items: str) -> Row:
    told = TopList(7, 5, NOW, DAY, 3.0, list(items), [2.0] * len(items))
    return Row(topics.TOP_LISTS, b"item|shoe-7", encode_top_list(told), {})


@pytest.mark.asyncio
async def test_a_list_is_written_under_its_version_and_goes_on() -> None:
    writer = FakeWriter()
    operator, runtime = store(writer)
    assert await operator.async_invoke(record("boot-1")) == [record("boot-1")]
    (((key,), (at, _, field, body)),) = writer.writes
    assert key == "riffle:top-list:{item|shoe-7}"
    assert (at, field, body) == (f"{7:016x}{5:016x}", "list", record("boot-1")[2])
    assert runtime.metrics.counts()["lists_stored"] == 1


@pytest.mark.asyncio
async def test_an_empty_list_is_a_tombstone_on_kafka_and_empty_in_redis() -> None:
    writer = FakeWriter()
    operator, _ = store(writer)
    assert await operator.async_invoke(record()) == [Row(topics.TOP_LISTS, b"item|shoe-7", None, {})]
    assert writer.writes[0][1][3] == record()[2]


@pytest.mark.asyncio
@pytest.mark.parametrize(("answer", "counter"), [(False, "redis_failures"), (RuntimeError("x"), "lists_failed")])
async def test_a_list_goes_on_to_kafka_whatever_redis_does(answer: bool | Exception, counter: str) -> None:
    operator, runtime = store(FakeWriter(answer))
    assert await operator.async_invoke(record("boot-1")) == [record("boot-1")]
    assert runtime.metrics.counts()[counter] == 1
