"""Replaying: records put back on their topic, each acknowledged before the next step is taken."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from kafka.errors import KafkaError

from client.errors import SendFailed
from client.kafka import producer
from schemas import topics
from schemas.connections import Connections
from schemas.record import TopicRecord

_LIMIT_MS = 10_000


@final
class Replayer:
    """Raises KafkaUnavailable where `events` cannot be reached."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._producer = producer(connections, connections.topic(topics.EVENTS), linger_ms=5, timeout_ms=_LIMIT_MS)

    def put_back(self, records: Iterable[TopicRecord]) -> int:
        """Send all, wait for all; how many. Raises SendFailed where one is not acknowledged: all may be sent again."""
        try:
            sent = [
                self._producer.send(
                    self._connections.topic(record.topic),
                    key=record.key,
                    value=record.value,
                    headers=list(record.headers.items()),
                )
                for record in records
            ]
            for future in sent:
                future.get(timeout=_LIMIT_MS / 1000)
        except KafkaError as error:
            raise SendFailed(
                f"Not all records were acknowledged ({error}): run it again, those sent twice count once."
            ) from error
        return len(sent)

    def __enter__(self) -> Replayer:
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.close(timeout=1)
