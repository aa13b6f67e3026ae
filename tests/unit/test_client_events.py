"""The sender with a producer that acknowledges when told to."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest
from kafka.errors import KafkaTimeoutError

from client import events as sender
from client.errors import InvalidEvent, SendFailed
from client.events import Events
from schemas.connections import Connections
from schemas.event import Event, ViewProps, parse_event


class Stored(NamedTuple):
    partition: int
    offset: int


class FakeFuture:
    def __init__(self) -> None:
        self.callbacks: list[Callable[[Any], None]] = []
        self.errbacks: list[Callable[[Any], None]] = []
        self.outcome: Any = None

    def add_callback(self, callback: Callable[[Any], None]) -> None:
        self.callbacks.append(callback)

    def add_errback(self, errback: Callable[[Any], None]) -> None:
        self.errbacks.append(errback)

    def settle(self, outcome: Any) -> None:
        self.outcome = outcome
        for call in self.errbacks if isinstance(outcome, Exception) else self.callbacks:
            call(outcome)

    @property
    def is_done(self) -> bool:
        return self.outcome is not None

    def succeeded(self) -> bool:
        return self.is_done and not isinstance(self.outcome, Exception)

    def get(self, timeout: float) -> Any:
        if self.outcome is None:
            raise KafkaTimeoutError(f"nothing after {timeout} s")
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class FakeProducer:
    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, bytes]] = []
        self.futures: list[FakeFuture] = []
        self.closed = False

    def send(self, topic: str, *, key: bytes, value: bytes) -> FakeFuture:
        self.sent.append((topic, key, value))
        self.futures.append(FakeFuture())
        return self.futures[-1]

    def flush(self, timeout: float) -> None:
        if any(not future.is_done for future in self.futures):
            raise KafkaTimeoutError(f"nothing after {timeout} s")

    def close(self, timeout: float) -> None:
        if timeout > 0:
            self.flush(timeout)
        self.closed = True


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> FakeProducer:
    made = FakeProducer()
    monkeypatch.setattr(sender, "producer", lambda *_, **__: made)
    return made


WHERE = Connections(namespace="eu-")


def event_of(kafka: FakeProducer) -> Event:
    found = parse_event(kafka.sent[-1][2])
    assert not hasattr(found, "reason"), found
    return found


def test_an_event_is_keyed_by_its_user_else_by_its_session(kafka: FakeProducer) -> None:
    events = Events(WHERE)
    assert events.track("login", session_id="s1").key == "s:s1"
    assert events.track("login", session_id="s1", user_id="alice").key == "u:alice"
    assert [(topic, key) for topic, key, _ in kafka.sent] == [("eu-events", b"s:s1"), ("eu-events", b"u:alice")]


def test_ids_are_made_unless_given_and_props_may_be_typed(kafka: FakeProducer) -> None:
    events = Events(WHERE)
    ids = {events.track("click", session_id="s1", item_id="i").event_id for _ in range(100)}
    assert len(ids) == 100
    events.track("view", session_id="s1", item_id="i", event_id="mine", ts_ms=5, props=ViewProps(dwell_ms=12_000))
    assert json.loads(msgspec.json.encode(event_of(kafka))) == {
        "event_type": "view",
        "event_id": "mine",
        "session_id": "s1",
        "item_id": "i",
        "ts_ms": 5,
        "schema_version": 2,
        "props": {"dwell_ms": 12_000},
    }


@pytest.mark.parametrize(
    ("arguments", "reason", "named"),
    [
        ({"event_type": "dance"}, "unknown_type", "dance"),
        ({"event_type": "click"}, "missing_field", "item_id"),
        ({"event_type": "click", "item_id": "i", "props": {"dwell": 1}}, "unknown_field", "dwell"),
        ({"event_type": "view", "item_id": "i", "props": {"dwell_ms": -1}}, "out_of_range", "dwell_ms"),
        ({"event_type": "click", "item_id": "x" * 65}, "out_of_range", "item_id"),
        ({"event_type": "click", "item_id": object()}, "wrong_type", "JSON"),
    ],
)
def test_what_the_engine_would_reject_is_refused_here(
    kafka: FakeProducer, arguments: dict[str, Any], reason: str, named: str
) -> None:
    """Contract: the sender and the engine judge by the same code, and the message names the field."""
    events = Events(WHERE)
    with pytest.raises(InvalidEvent, match=named) as caught:
        events.track(**arguments, session_id="s1")
    assert caught.value.reason == reason
    assert kafka.sent == []
    assert events.counters == {"tracked": 0, "sent": 0, "failed": 0, "refused": 1}


def test_a_token_has_the_id_at_once_and_the_position_after_the_acknowledgement(kafka: FakeProducer) -> None:
    token = Events(WHERE).track("login", session_id="s1")
    assert not token.acknowledged
    with pytest.raises(SendFailed, match=token.event_id):
        token.position(0.01)
    kafka.futures[0].settle(Stored(3, 17))
    assert token.acknowledged
    assert token.position() == (3, 17)


def test_what_is_not_acknowledged_is_counted_and_reported(kafka: FakeProducer) -> None:
    failures: list[tuple[str, str]] = []
    events = Events(WHERE, on_error=lambda event_id, error: failures.append((event_id, str(error))))
    good, bad = events.track("login", session_id="s1"), events.track("login", session_id="s1")
    kafka.futures[0].settle(Stored(0, 0))
    kafka.futures[1].settle(KafkaTimeoutError("expired"))
    assert [event_id for event_id, _ in failures] == [bad.event_id]
    assert events.counters == {"tracked": 2, "sent": 1, "failed": 1, "refused": 0}
    assert (good.acknowledged, bad.acknowledged) == (True, False)
    with pytest.raises(SendFailed, match="expired"):
        bad.position()


def test_a_broker_that_is_away_cannot_fill_the_memory(kafka: FakeProducer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "MAX_PENDING", 3)
    events = Events(WHERE)
    for _ in range(3):
        events.track("login", session_id="s1")
    with pytest.raises(SendFailed, match="3 events wait"):
        events.track("login", session_id="s1")
    kafka.futures[0].settle(Stored(0, 0))
    events.track("login", session_id="s1")
    assert events.counters["refused"] == 1


def test_closing_gives_up_on_what_is_never_acknowledged(kafka: FakeProducer) -> None:
    with Events(WHERE) as events:
        events.track("login", session_id="s1")
        with pytest.raises(SendFailed, match="1 events are not acknowledged"):
            events.flush(0.01)
    assert kafka.closed
