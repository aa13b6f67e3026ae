"""Events: how a service tells Riffle what a user did.

    with Events(connections) as events:
        token = events.track("click", user_id="alice", session_id="s1", item_id="shoe-7")
        feed.get("alice", at_least=token.event_id, wait_ms=100)

Records are batched, retried, and written once even where a retry repeats them (idempotent producer); what is not
acknowledged in time is counted and reported to `on_error`, never silently dropped.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, final

import msgspec
from kafka.errors import KafkaError

from client.errors import InvalidArgument, InvalidEvent, SendFailed
from client.kafka import producer
from schemas import topics
from schemas.connections import Connections
from schemas.event import SCHEMA_VERSION, Event, Props, Rejected, parse_event
from schemas.keys import user_key

MAX_PENDING = (
    50_000  # events without acknowledgement; more are refused, so that a broker's absence cannot fill the memory
)
_encode = msgspec.json.Encoder().encode


class Token(msgspec.Struct, frozen=True):
    """What a reader can demand (`RankedFeed.get(at_least=…)`): `event_id` at once, the position after the
    acknowledgement.
    """

    event_id: str
    key: str
    _future: Any

    def position(self, timeout_s: float = 10.0) -> tuple[int, int]:
        """(partition, offset) on the topic `events`, waiting for the acknowledgement. Raises SendFailed."""
        try:
            stored = self._future.get(timeout=timeout_s)
        except KafkaError as error:
            raise SendFailed(f"event {self.event_id} was not acknowledged: {_sentence(error)}") from error
        return stored.partition, stored.offset

    @property
    def acknowledged(self) -> bool:
        return bool(self._future.is_done and self._future.succeeded())


@final
class Events:
    """A sender. Thread-safe; make one per process, and close it.

    `linger_ms` is how long a record may wait for others to share its batch. `timeout_ms` is how long one may take to be
    acknowledged, retries included; then `on_error(event_id, error)` is called from the sender's thread, which must not
    block. Raises KafkaUnavailable where Kafka cannot be reached or the topic is missing.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        linger_ms: int = 1,
        timeout_ms: int = 10_000,
        on_error: Callable[[str, Exception], None] | None = None,
    ) -> None:
        self._topic = connections.topic(topics.EVENTS)
        self._on_error = on_error
        self._lock = threading.Lock()
        self._counters = {"tracked": 0, "sent": 0, "failed": 0, "refused": 0}
        self._producer = producer(connections, self._topic, linger_ms=linger_ms, timeout_ms=timeout_ms)

    @property
    def counters(self) -> dict[str, int]:
        """`tracked` taken, of them `sent` acknowledged and `failed`; `refused` were never taken."""
        with self._lock:
            return dict(self._counters)

    @property
    def pending(self) -> int:
        with self._lock:
            return self._counters["tracked"] - self._counters["sent"] - self._counters["failed"]

    def track(
        self,
        event_type: str,
        *,
        session_id: str,
        user_id: str | None = None,
        item_id: str | None = None,
        ts_ms: int | None = None,
        props: Mapping[str, Any] | Props | None = None,
        event_id: str | None = None,
    ) -> Token:
        """Send one event; `ts_ms` is when it happened (now, where None).

        `event_id` is made unless given; give the same one when sending an event again, and it is applied once.
        Raises InvalidEvent naming the field, and SendFailed where too many events wait for an acknowledgement.
        """
        body: dict[str, Any] = {
            "event_id": event_id or uuid.uuid4().hex,
            "session_id": session_id,
            "event_type": event_type,
            "ts_ms": int(time.time() * 1000) if ts_ms is None else ts_ms,
            "schema_version": SCHEMA_VERSION,
        }
        optional = {"user_id": user_id, "item_id": item_id, "props": props}
        try:
            raw = _encode(body | {name: value for name, value in optional.items() if value is not None})
        except (TypeError, ValueError) as error:
            self._count("refused")
            raise InvalidEvent("wrong_type", f"the event cannot be written as JSON: {error}") from error
        return self.send(raw)

    def send(self, raw: bytes) -> Token:
        """Send one event that is JSON already, as it is. Raises as `track` does."""
        event = parse_event(raw)
        if isinstance(event, Rejected):
            self._count("refused")
            raise InvalidEvent(event.reason.value, event.detail)
        if self.pending >= MAX_PENDING:
            self._count("refused")
            raise SendFailed(
                f"{MAX_PENDING} events wait for an acknowledgement: Kafka is away or too slow, so send this one later"
            )
        return self._put(raw, event)

    def _put(self, raw: bytes, event: Event) -> Token:
        key = user_key(event.user_id, event.session_id)
        try:
            future = self._producer.send(self._topic, key=key.encode(), value=raw)
        except KafkaError as error:
            self._count("refused")
            raise SendFailed(f"event {event.event_id} was not taken: {_sentence(error)}") from error
        self._count("tracked")
        future.add_callback(lambda _: self._count("sent"))
        future.add_errback(lambda error: self._failed(event.event_id, error))
        return Token(event.event_id, key, future)

    def flush(self, timeout_s: float = 10.0) -> None:
        """Wait until every event sent so far is acknowledged or has failed; SendFailed where that takes longer."""
        if timeout_s < 0:
            raise InvalidArgument(f"timeout_s must not be negative, but is {timeout_s}")
        try:
            self._producer.flush(timeout=timeout_s)
        except KafkaError as error:
            raise SendFailed(f"{self.pending} events are not acknowledged yet: {_sentence(error)}") from error

    def close(self, timeout_s: float = 10.0) -> None:
        """Flush and disconnect; what is not acknowledged in time has failed, see `counters` and `on_error`."""
        try:
            self._producer.close(timeout=timeout_s)
        except KafkaError:
            # Its flush ran out of time: end without another wait.
            self._producer.close(timeout=0)

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _failed(self, event_id: str, error: Exception) -> None:
        self._count("failed")
        if self._on_error is not None:
            self._on_error(event_id, error)

    def _count(self, name: str) -> None:
        with self._lock:
            self._counters[name] += 1


def _sentence(error: Exception) -> str:
    return str(error) or type(error).__name__
