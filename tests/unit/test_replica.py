"""The copy of the item catalogue: what records do to it, and how it follows its topic. The consumer is a fake."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec
import pytest
from kafka import TopicPartition
from kafka.errors import KafkaConnectionError

from schemas.connections import Connections
from tests.fakes import wait_until
from udfs import replica
from udfs.replica import ItemsReplica


def item(item_id: str, **fields: Any) -> bytes:
    return msgspec.json.encode({"item_id": item_id} | fields)


class FakeConsumer:
    """Reads from `log`, {partition: records}; each entry of `failures` is raised by a poll, once."""

    log: ClassVar[dict[int, list[tuple[bytes | None, bytes | None]]]] = {}
    failures: ClassVar[list[BaseException]] = []
    made: ClassVar[list[FakeConsumer]] = []

    def __init__(self, **settings: Any) -> None:
        self.settings, self.at = settings, dict[int, int]()
        self.closed = False
        FakeConsumer.made.append(self)

    def partitions_for_topic(self, name: str) -> set[int] | None:
        assert name == "test-items"
        return set(self.log) or None

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.at = {one.partition: -1 for one in partitions}

    def seek_to_beginning(self, one: TopicPartition) -> None:
        self.at[one.partition] = 0

    def seek(self, one: TopicPartition, offset: int) -> None:
        self.at[one.partition] = offset

    def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {one: len(self.log[one.partition]) for one in partitions}

    def position(self, one: TopicPartition) -> int:
        return self.at[one.partition]

    def poll(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[SimpleNamespace]]:
        if self.failures:
            raise self.failures.pop()
        found = {}
        for partition, at in self.at.items():
            records = self.log[partition][at : at + 2]
            if records:
                found[TopicPartition("test-items", partition)] = [
                    SimpleNamespace(key=key, value=value, offset=at + n) for n, (key, value) in enumerate(records)
                ]
                self.at[partition] += len(records)
        return found

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[tuple[bytes | None, bytes | None]]]:
    FakeConsumer.log, FakeConsumer.failures, FakeConsumer.made = {}, [], []
    monkeypatch.setattr(replica, "KafkaConsumer", FakeConsumer)
    return FakeConsumer.log


@pytest.fixture
def copy() -> Iterator[ItemsReplica]:
    found = ItemsReplica(Connections(namespace="test-"))
    # No test waits two seconds for the next attempt.
    found._stopped.wait = lambda _timeout=None: threading.Event().wait(0.001) or found._stopped.is_set()  # type: ignore[method-assign]
    yield found
    found.stop()
    if found._thread.is_alive():
        found._thread.join(5)


# ── what a record does ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("stock", "unavailable"), [(0, True), (1, False), (None, False)])
def test_an_item_without_stock_is_unavailable(copy: ItemsReplica, stock: int | None, unavailable: bool) -> None:
    copy._apply(b"i1", item("i1", stock=stock))
    assert ("i1" in copy.unavailable) is unavailable


def test_an_item_comes_back_with_its_stock(copy: ItemsReplica) -> None:
    copy._apply(b"i1", item("i1", stock=0))
    copy._apply(b"i1", item("i1", stock=3))
    assert copy.unavailable == set()


def test_a_tombstone_removes_an_item(copy: ItemsReplica) -> None:
    copy._apply(b"i1", item("i1", stock=3))
    copy._apply(b"i1", None)
    assert (copy.items, copy.unavailable) == ({}, {"i1"})


@pytest.mark.parametrize("value", [b"junk", b"", b"{}", item("i1", stock=-1), b'{"item_id":"\xff"}', b"[" * 10_000])
def test_a_broken_record_leaves_the_item_as_it_was(copy: ItemsReplica, value: bytes) -> None:
    copy._apply(b"i1", item("i1", stock=0))
    copy._apply(b"i1", value)
    assert (copy.unavailable, copy.items["i1"].stock, copy.rejected) == ({"i1"}, 0, 1)


def test_groups_of_an_item(copy: ItemsReplica) -> None:
    copy._apply(b"i1", item("i1", category="shoes", subcategory="trail"))
    assert (copy.groups_of("i1"), copy.groups_of("i2")) == (("trail", "shoes"), None)


# ── following the topic ──────────────────────────────────────────────────────────────────────────────────────────────


def test_it_is_ready_when_it_has_read_to_where_the_topic_ended(
    copy: ItemsReplica, log: dict[int, list[tuple[bytes | None, bytes | None]]]
) -> None:
    log[0] = [(b"i%d" % n, item(f"i{n}", stock=0)) for n in range(5)]
    log[1] = []
    copy.start()
    assert copy.ready.wait(5)
    assert copy.unavailable == {f"i{n}" for n in range(5)}
    assert copy.offsets == {0: 4}


def test_it_follows_what_comes_later(
    copy: ItemsReplica, log: dict[int, list[tuple[bytes | None, bytes | None]]]
) -> None:
    log[0] = [(b"i1", item("i1", stock=3))]
    copy.start()
    assert copy.ready.wait(5)
    log[0].append((b"i1", item("i1", stock=0)))
    wait_until(lambda: "i1" in copy.unavailable)


@pytest.mark.parametrize(
    "failure", [KafkaConnectionError(), OSError("broken pipe"), AssertionError("kafka-python's own")]
)
def test_a_failure_is_outlived_and_reading_goes_on_where_it_was(
    copy: ItemsReplica, log: dict[int, list[tuple[bytes | None, bytes | None]]], failure: Exception
) -> None:
    log[0] = [(b"i%d" % n, item(f"i{n}", stock=0)) for n in range(6)]
    copy.start()
    assert copy.ready.wait(5)
    FakeConsumer.failures.append(failure)
    wait_until(lambda: len(FakeConsumer.made) == 2)
    log[0].append((b"i6", item("i6", stock=0)))
    wait_until(lambda: "i6" in copy.unavailable)
    assert FakeConsumer.made[0].closed
    assert copy.offsets == {0: 6}


def test_a_topic_that_does_not_exist_yet_is_waited_for(
    copy: ItemsReplica, log: dict[int, list[tuple[bytes | None, bytes | None]]]
) -> None:
    """Contract: no topic is not an empty topic: the copy is not ready, and fills when the topic is there."""
    copy.start()
    wait_until(lambda: len(FakeConsumer.made) > 2)
    assert not copy.ready.is_set()
    log[0] = [(b"i1", item("i1", stock=0))]
    assert copy.ready.wait(5)
    assert copy.unavailable == {"i1"}


def test_an_offset_that_is_gone_means_the_beginning(
    copy: ItemsReplica, log: dict[int, list[tuple[bytes | None, bytes | None]]]
) -> None:
    log[0] = []
    copy.start()
    assert copy.ready.wait(5)
    assert FakeConsumer.made[0].settings["auto_offset_reset"] == "earliest"


def test_stop_ends_the_thread(copy: ItemsReplica, log: dict[int, list[tuple[bytes | None, bytes | None]]]) -> None:
    log[0] = []
    copy.start()
    copy.stop()
    copy._thread.join(5)
    assert not copy._thread.is_alive()
    assert FakeConsumer.made[0].closed
