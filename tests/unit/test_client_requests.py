"""The requester with a consumer and a producer that are two queues."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from kafka.errors import KafkaError

from client import requests as requester_module
from client.errors import InvalidArgument, RankError, RankTimeout
from client.requests import RankRequester
from schemas.connections import Connections
from schemas.ranking import (
    Freshness,
    RankedItem,
    RankedList,
    RankRequest,
    RankResponse,
    Receipt,
    decode_request,
    encode_json,
)

Answer = Callable[[RankRequest], list[tuple[bytes | None, bytes | None]]]


class Response(NamedTuple):
    key: bytes | None
    value: bytes | None


class FakeKafka:
    """Producer and consumer: `answer` says what appears on rank-responses after a request."""

    def __init__(self) -> None:
        self.answer: Answer = lambda _: []
        self.responses: queue.Queue[Response | Exception] = queue.Queue()
        self.sent: list[tuple[str, bytes, RankRequest]] = []
        self.seeks: dict[Any, int] = {}
        self.closed = 0

    def send(self, topic: str, *, key: bytes, value: bytes) -> None:
        assert self.seeks == {"p0": 11, "p1": 12}, "ready at the end of all partitions before the first request"
        request = decode_request(value)
        self.sent.append((topic, key, request))
        for pair in self.answer(request):
            self.responses.put(Response(*pair))

    def assign(self, partitions: list[Any]) -> None:
        assert partitions == ["p0", "p1"]

    def end_offsets(self, partitions: list[Any]) -> dict[Any, int]:
        return {partition: 11 + number for number, partition in enumerate(partitions)}

    def seek(self, partition: Any, offset: int) -> None:
        self.seeks[partition] = offset

    def poll(self, timeout_ms: int) -> dict[str, list[Response]]:
        try:
            found = self.responses.get(timeout=min(timeout_ms, 20) / 1000)
        except queue.Empty:
            return {}
        if isinstance(found, Exception):
            raise found
        return {"p0": [found]}

    def close(self, timeout: float = 0) -> None:
        self.closed += 1


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> FakeKafka:
    made = FakeKafka()
    monkeypatch.setattr(requester_module, "consumer", lambda *_, **__: made)
    monkeypatch.setattr(requester_module, "producer", lambda *_, **__: made)
    monkeypatch.setattr(requester_module, "partitions_of", lambda *_: ["p0", "p1"])
    return made


@pytest.fixture
def requester(kafka: FakeKafka) -> Iterator[RankRequester]:
    with RankRequester(Connections(namespace="eu-")) as made:
        yield made
    assert kafka.closed == 2


def answer(request: RankRequest) -> list[tuple[bytes | None, bytes | None]]:
    receipt = Receipt(Freshness(0, None, None, [], {}), "b", "r", "p", {}, {}, {}, {})
    items = [RankedItem(item_id, 1.0, "caller") for item_id in (request.candidates or [])[: request.k]]
    ranked = RankedList("l", "u:mara", request.surface, 0, 1, 1, items, receipt, "request")
    return [(request.request_id.encode(), encode_json(RankResponse(request.request_id, list=ranked)))]


def test_a_request_gets_its_list(kafka: FakeKafka, requester: RankRequester) -> None:
    kafka.answer = answer
    ranked = requester.rank_feed("mara", ["a", "b", "c"], k=2, context={"device": "mobile"}, timeout_ms=5_000)
    assert [item.item_id for item in ranked.items] == ["a", "b"]
    ((topic, key, request),) = kafka.sent
    assert (topic, key, request.user_id) == ("eu-rank-requests", b"u:mara", "mara")
    assert request.context is not None
    assert request.reply_by_ms == request.ts_ms + 5_000
    assert requester.counters == {"asked": 1, "answered": 1, "refused": 0, "timed_out": 0, "reader_errors": 0}


def test_an_anonymous_request_is_keyed_by_its_session(kafka: FakeKafka, requester: RankRequester) -> None:
    kafka.answer = answer
    requester.rank_feed(None, ["a"], session_id="s1", timeout_ms=5_000)
    assert kafka.sent[0][1] == b"s:s1"


def test_many_threads_each_get_their_own(kafka: FakeKafka, requester: RankRequester) -> None:
    held: list[RankRequest] = []

    def reversed_order(request: RankRequest) -> list[tuple[bytes | None, bytes | None]]:
        held.append(request)
        if len(held) < 12:
            return []
        return [pair for late in reversed(held) for pair in answer(late)]

    kafka.answer = reversed_order
    got: dict[int, str] = {}

    def ask(number: int) -> None:
        ranked = requester.rank_feed("mara", [f"item-{number}"], timeout_ms=10_000)
        got[number] = ranked.items[0].item_id

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {number: f"item-{number}" for number in range(12)}


def test_what_is_not_ours_broken_or_late_harms_nobody(kafka: FakeKafka, requester: RankRequester) -> None:
    """Contract: the reader survives foreign, keyless and failing records, and answers go on."""
    kafka.responses.put(KafkaError("the broker left"))
    foreign: list[tuple[bytes | None, bytes | None]] = [(None, None), (b"\xff", b"{"), (b"other", b"not json")]
    kafka.answer = lambda request: foreign + answer(request) + answer(request)
    for _ in range(3):
        assert requester.rank_feed("mara", ["a"], timeout_ms=5_000).items[0].item_id == "a"
    assert requester.counters["reader_errors"] == 1


def test_errors_and_silence_raise(kafka: FakeKafka, requester: RankRequester) -> None:
    kafka.answer = lambda request: [
        (request.request_id.encode(), encode_json(RankResponse(request.request_id, error="k: too many")))
    ]
    with pytest.raises(RankError, match="k: too many"):
        requester.rank_feed("mara", timeout_ms=5_000)
    kafka.answer = lambda request: [(request.request_id.encode(), b"{")]
    with pytest.raises(RankError, match="cannot be read"):
        requester.rank_feed("mara", timeout_ms=5_000)
    kafka.answer = lambda _: []
    with pytest.raises(RankTimeout, match="mara within 30 ms"):
        requester.rank_feed("mara", timeout_ms=30)
    assert requester.counters == {"asked": 3, "answered": 0, "refused": 2, "timed_out": 1, "reader_errors": 0}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"user": None}, "session_id"),
        ({"user": ""}, "user_id"),
        ({"user": "a", "k": 0}, r"\$\.k"),
        ({"user": "a", "candidates": ["x"] * 1_001}, "candidates"),
        ({"user": "a", "candidates": [7]}, "candidates"),
        ({"user": "a", "surface": "no spaces"}, "surface"),
        ({"user": "a", "context": {"device": "fridge"}}, "device"),
        ({"user": "a", "timeout_ms": 0}, "timeout_ms"),
    ],
)
def test_wrong_arguments_are_named_and_not_sent(
    kafka: FakeKafka, requester: RankRequester, arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidArgument, match=named):
        requester.rank_feed(**arguments)
    assert kafka.sent == []
