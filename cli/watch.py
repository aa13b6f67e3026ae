"""Watching the job's output: how long from an event to its list, and what went to the dead letters."""

from __future__ import annotations

import threading
import time
from collections import deque

import msgspec
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from schemas import topics
from schemas.connections import Connections

_KEPT = 100_000
_RECENT = 1_000


class _Freshness(msgspec.Struct):
    last_event_id: str | None = None


class _Receipt(msgspec.Struct):
    freshness: _Freshness


class _List(msgspec.Struct):
    """The part of a RankedList that is watched."""

    receipt: _Receipt


_decode = msgspec.json.Decoder(_List).decode


class Watch:
    """Reads `ranked-feed` and `events-dlq` from now on, in a thread of its own. Latency is from the moment an event was
    handed to the sender until its list was seen here."""

    def __init__(self, where: Connections) -> None:
        self._consumer = KafkaConsumer(
            **where.kafka_python(), group_id=None, enable_auto_commit=False, fetch_max_wait_ms=100
        )
        self._feed, self._dead = where.topic(topics.RANKED_FEED), where.topic(topics.EVENTS_DLQ)
        partitions = [
            TopicPartition(name, number)
            for name in (self._feed, self._dead)
            for number in sorted(self._consumer.partitions_for_topic(name) or ())
        ]
        self._consumer.assign(partitions)
        self._consumer.seek_to_end()
        for partition in partitions:
            self._consumer.position(partition)  # the end is looked up lazily: do it before the first event is sent
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self.begin()
        self._thread = threading.Thread(target=self._follow, name="watch", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Count from here on."""
        with self._lock:
            self.lists = self.dead_letters = 0
            self._latencies: deque[float] = deque(maxlen=_KEPT)
            self._sent: dict[str, float] = {}  # event id -> when it was handed to the sender
            self._last_seen = time.monotonic()

    def sent(self, event_id: str) -> None:
        with self._lock:
            self._sent[event_id] = time.perf_counter()
            if len(self._sent) > _KEPT:
                del self._sent[next(iter(self._sent))]

    def latency_ms(self, percent: float, recent: bool = False) -> float | None:
        """A percentile of all latencies since `begin`, or of the newest thousand; None before the first list."""
        with self._lock:
            values = sorted(list(self._latencies)[-_RECENT:] if recent else self._latencies)
        if not values:
            return None
        return round(values[min(len(values) - 1, int(len(values) * percent / 100))], 2)

    def settle(self, limit_s: float) -> None:
        """Wait until no list has come for half a second."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            with self._lock:
                quiet_s = time.monotonic() - self._last_seen
            if quiet_s > 0.5:
                return
            time.sleep(0.1)

    def close(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=5)
        self._consumer.close(autocommit=False)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                found = self._consumer.poll(timeout_ms=200)
            except KafkaError:
                self._stopped.wait(0.5)
                continue
            now = time.perf_counter()
            for partition, records in found.items():
                if partition.topic == self._dead:
                    with self._lock:
                        self.dead_letters += len(records)
                    continue
                for record in records:
                    self._saw(_decode(record.value).receipt.freshness.last_event_id, now)

    def _saw(self, event_id: str | None, now: float) -> None:
        with self._lock:
            self.lists += 1
            self._last_seen = time.monotonic()
            sent = self._sent.pop(event_id, None) if event_id else None
            if sent is not None:
                self._latencies.append((now - sent) * 1000)
