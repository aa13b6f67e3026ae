"""Reading stretches of a topic from outside any consumer group, with limits on records and time.

A scan looks at what is there when it begins; what arrives meanwhile is not waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, final

import msgspec
from kafka import TopicPartition
from kafka.errors import KafkaError

from client.errors import KafkaUnavailable
from client.kafka import consumer, partitions_of
from schemas.connections import Connections

WINDOW = 2_000  # records per partition that a backward scan steps back at a time
_POLL_MS = 500
_MAX_POLL_RECORDS = 5_000

Ranges = dict[TopicPartition, tuple[int, int]]  # from (inclusive), to (exclusive), as offsets


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """When to give up, over all scans of one Scanner."""

    records: int = 1_000_000
    seconds: float = 30.0


@final
class Scanner:
    """`say` is told (topic, records read of it so far, records there) as a scan goes on. Raises KafkaUnavailable."""

    def __init__(
        self,
        connections: Connections,
        limits: Limits | None = None,
        say: Callable[[str, int, int], None] = lambda _topic, _done, _total: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        kafka: Any = None,
    ) -> None:
        self._connections = connections
        self._limits = limits or Limits()
        self._say = say
        self._clock = clock
        self._deadline_s = clock() + self._limits.seconds
        self._read = 0
        self.cut_short: list[str] = []  # the topics that a limit kept from being read to the end
        # Committed only: an aborted transaction's records on `interactions` never happened.
        self._kafka = kafka or consumer(
            connections, isolation_level="read_committed", max_poll_records=_MAX_POLL_RECORDS, fetch_max_wait_ms=100
        )

    def newest_first(self, name: str) -> Iterator[Any]:
        """A topic's records from its end: by append time within a window, window by window across partitions."""
        whole = self._whole(name)
        total = sum(end - start for start, end in whole.values())
        ends = {partition: end for partition, (_, end) in whole.items()}
        done = 0
        while any(ends[partition] > whole[partition][0] for partition in whole):
            window = {
                partition: (max(whole[partition][0], end - WINDOW), end)
                for partition, end in ends.items()
                if end > whole[partition][0]
            }
            records = list(self._stretch(name, window, done, total))
            done += len(records)
            yield from sorted(records, key=lambda record: (record.timestamp, record.offset), reverse=True)
            if name in self.cut_short:
                return
            ends |= {partition: start for partition, (start, _) in window.items()}

    def everything(self, name: str) -> Iterator[Any]:
        """A topic's records from the beginning."""
        whole = self._whole(name)
        yield from self._stretch(name, whole, 0, sum(end - start for start, end in whole.values()))

    def since(self, name: str, append_ms: int) -> Iterator[Any]:
        """A topic's records appended at or after a time (ms since 1970)."""
        whole = self._whole(name)
        try:
            found = self._kafka.offsets_for_times(dict.fromkeys(whole, append_ms))
        except KafkaError as error:
            raise self._lost(name, error) from error
        ranges = {
            partition: (max(start, found[partition].offset), end)
            for partition, (start, end) in whole.items()
            if found.get(partition) is not None
        }
        yield from self._stretch(name, ranges, 0, sum(end - start for start, end in ranges.values()))

    def one(self, name: str, partition: int, offset: int) -> Any | None:
        """The record at a place; None where there is none (any more)."""
        at = TopicPartition(self._connections.topic(name), partition)
        start, end = self._whole(name).get(at, (0, 0))
        if not start <= offset < end:
            return None
        found = next(iter(self._stretch(name, {at: (offset, offset + 1)}, 0, 1)), None)
        return found if found is not None and found.offset == offset else None

    def extent(self, name: str) -> dict[int, tuple[int, int]]:
        """Partition -> first offset there is, and the one after the last committed one."""
        return {partition.partition: whole for partition, whole in self._whole(name).items()}

    def stretch(self, name: str, partition: int, start: int, end: int) -> Iterator[Any]:
        """The records of one partition from `start` up to, not including, `end`."""
        at = TopicPartition(self._connections.topic(name), partition)
        yield from self._stretch(name, {at: (start, end)}, 0, end - start)

    def close(self) -> None:
        self._kafka.close()

    def __enter__(self) -> Scanner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _whole(self, name: str) -> Ranges:
        partitions = partitions_of(self._connections, self._kafka, self._connections.topic(name))
        try:
            starts, ends = self._kafka.beginning_offsets(partitions), self._kafka.end_offsets(partitions)
        except KafkaError as error:
            raise self._lost(name, error) from error
        return {partition: (starts[partition], ends[partition]) for partition in partitions}

    def _stretch(self, name: str, ranges: Ranges, done: int, total: int) -> Iterator[Any]:
        open_ranges = {partition: (start, end) for partition, (start, end) in ranges.items() if start < end}
        self._kafka.assign(list(open_ranges))
        # Assigning what is assigned already changes nothing in kafka-python: the last stretch's pauses would stay.
        self._kafka.resume(*open_ranges)
        for partition, (start, _) in open_ranges.items():
            self._kafka.seek(partition, start)
        while open_ranges:
            if self._clock() > self._deadline_s or self._read >= self._limits.records:
                self.cut_short.append(name)
                return
            try:
                batches = self._kafka.poll(timeout_ms=_POLL_MS)
                # By position, not by the last record: transaction markers and compaction leave gaps.
                ended = [p for p, (_, end) in open_ranges.items() if self._kafka.position(p) >= end]
            except KafkaError as error:
                raise self._lost(name, error) from error
            for partition, records in batches.items():
                end = open_ranges[partition][1]
                for record in records:
                    if record.offset < end:
                        done += 1
                        self._read += 1
                        yield record
            self._say(name, done, total)
            if ended:
                for partition in ended:
                    del open_ranges[partition]
                self._kafka.pause(*ended)

    def _lost(self, name: str, error: Exception) -> KafkaUnavailable:
        topic = self._connections.topic(name)
        return KafkaUnavailable(
            f"Topic {topic} at {self._connections.brokers} cannot be read ({type(error).__name__}: {error})."
        )


def headers_of(record: Any) -> dict[str, str]:
    """A record's headers as text; what is not UTF-8 is shown with replacement characters."""
    return {name: (value or b"").decode(errors="replace") for name, value in record.headers or ()}
