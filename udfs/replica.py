"""Copies of compacted topics in each ranking worker: `items` here, `item-features` in udfs.item_features_replica."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import msgspec
from kafka import KafkaConsumer, TopicPartition

from schemas import topics
from schemas.connections import Connections
from schemas.items import Item, decode_item

log = logging.getLogger(__name__)

KeyValue = tuple[bytes | None, bytes | None]


class Replica:
    """Follows a topic from its beginning, in the background; `ready` once it has caught up with where it ended at start.

    `_apply_all` says what records do; it must not raise for what they hold. A lost broker is waited for.
    """

    def __init__(self, connections: Connections, topic: str) -> None:
        self._connections, self._topic = connections, topic
        self.offsets: dict[int, int] = {}
        self.ready = threading.Event()
        self.rejected = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"{topic}-replica", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _apply_all(self, records: list[KeyValue]) -> None:
        raise NotImplementedError

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                self._consume()
            except Exception as error:  # KafkaError and more: a thread that ended would leave the copy stale for ever
                log.warning("%s replica: %s; trying again in 2 s", self._topic, type(error).__name__)
                self._stopped.wait(2)

    def _consume(self) -> None:
        consumer = KafkaConsumer(
            **self._connections.kafka_python(), enable_auto_commit=False, group_id=None, auto_offset_reset="earliest"
        )
        try:
            name = self._connections.topic(self._topic)
            partitions = [TopicPartition(name, number) for number in sorted(consumer.partitions_for_topic(name) or ())]
            if not partitions:
                log.warning("replica: the topic %s does not exist yet; trying again in 2 s", name)
                self._stopped.wait(2)
                return
            consumer.assign(partitions)
            for partition in partitions:
                known = self.offsets.get(partition.partition)
                if known is None:
                    consumer.seek_to_beginning(partition)
                else:
                    consumer.seek(partition, known + 1)
            ends = consumer.end_offsets(partitions)
            while not self._stopped.is_set():
                for partition, records in consumer.poll(timeout_ms=500, max_records=2_000).items():
                    self._apply_all([(record.key, record.value) for record in records])
                    self.offsets[partition.partition] = records[-1].offset
                if not self.ready.is_set() and all(consumer.position(one) >= ends[one] for one in partitions):
                    self.ready.set()
                time.sleep(0.05)  # a moment's rest lets updates gather: a poll costs more than an item
        finally:
            consumer.close()


class ItemsReplica(Replica):
    """What is out of stock, in microseconds and without Redis. A broken record is skipped and counted: the item stays what it
    was. `changed` is told the ids of each batch of records, once they are applied; it must not raise."""

    def __init__(self, connections: Connections) -> None:
        super().__init__(connections, topics.ITEMS)
        self.changed: Callable[[list[str]], None] = lambda _item_ids: None
        self.unavailable: set[str] = set()
        self.items: dict[str, Item] = {}

    def groups_of(self, item_id: str) -> tuple[str | None, str | None] | None:
        """(subcategory, category) of an item, for bundles that do not know it; None for an unknown item."""
        item = self.items.get(item_id)
        return None if item is None else (item.subcategory, item.category)

    def _apply_all(self, records: list[KeyValue]) -> None:
        self.changed([item_id for key, value in records if (item_id := self._apply(key, value)) is not None])

    def _apply(self, key: bytes | None, value: bytes | None) -> str | None:
        """The id of the item that the record is about; None where it is broken."""
        item_id = (key or b"").decode(errors="replace")
        if value is None:
            self.items.pop(item_id, None)
            self.unavailable.add(item_id)
            return item_id
        try:
            item = decode_item(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self.rejected += 1
            log.warning("items replica: a record was skipped: %s", error)
            return None
        self.items[item.item_id] = item
        if item.stock == 0:
            self.unavailable.add(item.item_id)
        else:
            self.unavailable.discard(item.item_id)
        return item.item_id
