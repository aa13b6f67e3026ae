"""AggregateItems and StoreItemFeatures on fakes: what is stored, timed, counted and emitted. How it is counted is in
tests/unit/test_item_aggregates.py."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pyflink.common import Row
from pyflink.common.typeinfo import Types
from pyflink.datastream import OutputTag

from jobs.item_aggregates import counting
from schemas import topics
from schemas.connections import Connections
from schemas.features_row import ItemRow, RowKey
from schemas.keys import item_features_redis_key
from tests.fakes import DAY, HOUR, NOW, FakeClock, FakeContext, FakeRuntimeContext
from udfs import aggregate_items
from udfs.aggregate_items import AGGREGATE_ITEMS, CATALOGUE, AggregateItems
from udfs.logic.item_aggregates import ACTIONS, SLICE_MS, decode
from udfs.redis_writer import Owed
from udfs.store_item_features import StoreItemFeatures

ROWS = OutputTag("rows", Types.STRING())
COUNTS = counting()
SLICE = NOW // SLICE_MS
SHOE = COUNTS.codec.record_key(RowKey("item", "shoe-7"))


class Harness:
    """The operator with one key, opened, on a clock that the test moves."""

    def __init__(self, clock: FakeClock, key: str = "item|shoe-7") -> None:
        self.clock, self.runtime, self.context = clock, FakeRuntimeContext(), FakeContext(key)
        self.operator = AggregateItems(AGGREGATE_ITEMS, 7, COUNTS.codec, COUNTS.columns, ROWS, "test-")
        self.operator.open(self.runtime)

    def delta(self, slice_no: int = SLICE, **counts: int) -> list[Any]:
        row = Row(slice_no, *(counts.get(action, 0) for action in ACTIONS), None)
        return list(self.operator.process_element(row, self.context))

    def item(self, value: bytes | None) -> list[Any]:
        return list(self.operator.process_element(Row(CATALOGUE, *[0] * len(ACTIONS), value), self.context))

    def fire(self) -> list[Any]:
        at_ms = min(self.context.timers.event_timers)
        self.context.timers.event_timers.discard(at_ms)
        return list(self.operator.on_timer(at_ms, self.context))


def rows(emitted: list[Any]) -> list[ItemRow]:
    return [COUNTS.codec.decode(one[1][2]) for one in emitted if isinstance(one, tuple)]


def groups(emitted: list[Any]) -> list[Row]:
    return [one for one in emitted if isinstance(one, Row)]


def value(row: ItemRow, name: str) -> int:
    return dict(zip(COUNTS.codec.columns, row.counts))[name]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock(NOW / 1000)
    monkeypatch.setattr(aggregate_items, "time", clock)
    return clock


@pytest.fixture
def shoe(clock: FakeClock) -> Harness:
    return Harness(clock)


def test_a_delta_becomes_a_row_under_the_items_key(shoe: Harness) -> None:
    ((tag, record),) = shoe.delta(click=2, impression=9)
    assert tag is ROWS
    assert (record[0], record[1]) == (f"test-{topics.ITEM_FEATURES}", SHOE)
    row = COUNTS.codec.decode(record[2])
    assert (value(row, "clicks_2h"), value(row, "impressions_28d")) == (2, 9)
    assert (row.state_epoch, row.row_no, row.window_end_ms) == (7, NOW, (SLICE + 1) * SLICE_MS)


def test_rows_are_numbered_upwards_although_the_clock_stands_still(shoe: Harness) -> None:
    numbers = [row.row_no for _ in range(3) for row in rows(shoe.delta(click=1))]
    assert numbers == [NOW, NOW + 1, NOW + 2]


def test_what_changes_no_column_emits_nothing(shoe: Harness) -> None:
    shoe.delta(click=1)
    assert shoe.delta() == []
    assert shoe.delta(SLICE - 29 * 288, click=1) == []


def test_time_takes_out_what_leaves_the_windows(shoe: Harness) -> None:
    """Contract: two hours later the 2 h column is 0, 28 days later nothing is left, neither state nor timer."""
    shoe.delta(like=3)
    assert shoe.context.timers.event_timers == {NOW + 2 * HOUR}
    (after_2h,) = rows(shoe.fire())
    assert (value(after_2h, "likes_2h"), value(after_2h, "likes_28d")) == (0, 3)
    assert shoe.context.timers.event_timers == {NOW + 28 * DAY}
    (last,) = rows(shoe.fire())
    assert not any(last.counts)
    assert not shoe.context.timers.event_timers
    assert shoe.runtime.state.stored is None


def test_rows_go_on_upwards_after_state_was_cleared(shoe: Harness) -> None:
    (first,) = rows(shoe.delta(click=1))
    shoe.fire(), shoe.fire()
    shoe.clock.now += 28 * DAY / 1000
    (again,) = rows(shoe.delta(SLICE + 29 * 288, click=1))
    assert again.row_no > first.row_no + 2


def test_one_timer_waits_for_the_next_change(shoe: Harness) -> None:
    shoe.delta(like=1)
    shoe.delta(SLICE + 3, like=1)
    assert len(shoe.context.timers.event_timers) == 1
    shoe.delta(SLICE - 2, like=1)  # leaves earlier
    assert min(shoe.context.timers.event_timers) == NOW + 2 * HOUR - 2 * SLICE_MS
    assert value(rows(shoe.fire())[0], "likes_2h") == 2


def test_the_catalogue_says_which_groups_an_item_counts_for(shoe: Harness) -> None:
    assert groups(shoe.delta(click=1)) == []
    body = {"item_id": "shoe-7", "subcategory": "boots", "category": "shoes"}
    (row,) = rows(shoe.item(json.dumps(body).encode()))
    assert (row.subcategory, row.category) == ("boots", "shoes")
    found = groups(shoe.delta(click=5))
    assert [one[0] for one in found] == ["subcategory|boots", "category|shoes"]
    assert [(one[1], one[2 + ACTIONS.index("click")]) for one in found] == [(SLICE, 5)] * 2


def test_a_catalogue_record_that_cannot_be_read_changes_nothing(shoe: Harness) -> None:
    shoe.item(b'{"item_id": "shoe-7", "category": "shoes"}')
    shoe.item(b'{"item_id": "shoe-7", "price": -1}')
    assert decode(shoe.runtime.state.stored).category == "shoes"
    assert shoe.runtime.metrics.counts()["items_unreadable"] == 1


def test_an_item_without_counts_emits_nothing_and_a_removed_one_is_forgotten(shoe: Harness) -> None:
    assert shoe.item(b'{"item_id": "shoe-7", "category": "shoes"}') == []
    assert shoe.runtime.state.stored is not None
    assert shoe.item(None) == []
    assert shoe.runtime.state.stored is None


@pytest.mark.parametrize("kind", ["late", "unreadable"])
def test_what_is_refused_is_counted_and_leaves_nothing(clock: FakeClock, kind: str) -> None:
    refused = Harness(clock, f"{kind}|")
    assert refused.delta(impression=4) == []
    assert refused.runtime.metrics.counts() == {f"interactions_{kind}": 4}
    assert refused.runtime.state.writes == 0


# ── Redis, then Kafka ────────────────────────────────────────────────────────────────────────────────────────────────


class FakeWriter:
    def __init__(self, reached: bool | Exception = True) -> None:
        self.reached, self.writes, self.owed = reached, list[Any](), Owed()

    async def write(self, keys: list[str], args: list[Any]) -> bool:
        self.writes.append((keys, args))
        if isinstance(self.reached, Exception):
            raise self.reached
        return self.reached


def store(writer: FakeWriter) -> tuple[StoreItemFeatures, FakeRuntimeContext]:
    runtime = FakeRuntimeContext()
    operator = StoreItemFeatures(Connections(brokers="b:1", redis_url="redis://r:1/0"), COUNTS.codec)
    operator.open(runtime)
    operator._redis = writer  # type: ignore[assignment]
    return operator, runtime


def record(count: int) -> Row:
    row = ItemRow(7, 5, NOW, (count,) * len(COUNTS.columns))
    return Row(topics.ITEM_FEATURES, SHOE, COUNTS.codec.encode(row), {})


@pytest.mark.asyncio
async def test_a_row_is_written_under_its_version_and_goes_on() -> None:
    writer = FakeWriter()
    operator, runtime = store(writer)
    assert await operator.async_invoke(record(3)) == [record(3)]
    (((key,), (at, _, field, body)),) = writer.writes
    assert key == item_features_redis_key("riffle:", COUNTS.codec.version, "item|shoe-7")
    assert (at, field, body) == (f"{7:016x}{5:016x}", "row", record(3)[2])
    assert runtime.metrics.counts()["rows_stored"] == 1


@pytest.mark.asyncio
async def test_a_row_of_zeros_is_a_tombstone_on_kafka_and_zeros_in_redis() -> None:
    writer = FakeWriter()
    operator, _ = store(writer)
    assert await operator.async_invoke(record(0)) == [Row(topics.ITEM_FEATURES, SHOE, None, {})]
    assert writer.writes[0][1][3] == record(0)[2]


@pytest.mark.asyncio
@pytest.mark.parametrize(("answer", "counter"), [(False, "redis_failures"), (RuntimeError("x"), "rows_failed")])
async def test_a_row_goes_on_to_kafka_whatever_redis_does(answer: bool | Exception, counter: str) -> None:
    operator, runtime = store(FakeWriter(answer))
    assert await operator.async_invoke(record(3)) == [record(3)]
    assert runtime.metrics.counts()[counter] == 1
