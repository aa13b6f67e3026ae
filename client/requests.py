"""RankRequester: `rank_feed(user, candidates, k)` as a question over Kafka and its answer.

    requester ── rank-requests (keyed like the user's events) ──► engine
        ▲                                                           │
        └──────────── rank-responses (keyed by request_id) ◄────────┘

One background thread reads all partitions of `rank-responses` from their end; it is in place before the first request
is sent, so no answer can be missed. Many requests may be in flight, from many threads.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, final

import msgspec
from kafka.errors import KafkaError

from client.errors import InvalidArgument, RankError, RankTimeout
from client.kafka import consumer, partitions_of, producer
from schemas import topics
from schemas.connections import Connections
from schemas.event import SCHEMA_VERSION, Context
from schemas.keys import user_key
from schemas.ranking import DEFAULT_SURFACE, RankedList, RankRequest, decode_request, decode_response, encode_json

_POLL_MS = 200
_RETRY_S = 0.2


@final
class RankRequester:
    """Asks for lists. Thread-safe; make one per process, and close it. Raises KafkaUnavailable when it cannot start.

    `counters`: asked, answered, refused by the engine, timed out, and reader errors that were survived.
    """

    def __init__(self, connections: Connections) -> None:
        self._requests = connections.topic(topics.RANK_REQUESTS)
        self._waiting: dict[str, Future[RankedList]] = {}
        self._lock = threading.Lock()
        self.counters = {"asked": 0, "answered": 0, "refused": 0, "timed_out": 0, "reader_errors": 0}
        self._closed = threading.Event()
        self._consumer = consumer(connections, fetch_max_wait_ms=500, auto_offset_reset="latest")
        try:
            partitions = partitions_of(connections, self._consumer, connections.topic(topics.RANK_RESPONSES))
            self._consumer.assign(partitions)
            for partition, end in self._consumer.end_offsets(partitions).items():
                self._consumer.seek(partition, end)
            self._producer = producer(connections, self._requests, linger_ms=0, timeout_ms=5_000)
        except BaseException:
            self._consumer.close()
            raise
        self._reader = threading.Thread(target=self._read, name="riffle-rank-responses", daemon=True)
        self._reader.start()

    def rank_feed(
        self,
        user: str | None,
        candidates: Sequence[str] | None = None,
        k: int = 5,
        surface: str = DEFAULT_SURFACE,
        context: Context | Mapping[str, Any] | None = None,
        *,
        session_id: str | None = None,
        timeout_ms: int = 500,
        explain: bool = False,
    ) -> RankedList:
        """The ranked list of a user (of the anonymous `session_id` where `user` is None), from these candidates or the
        engine's own.

        Raises InvalidArgument naming the field, RankTimeout without an answer in `timeout_ms`, RankError where the
        engine refuses, SendFailed never: an unsent request is one without an answer.
        """
        request = _request(user, candidates, k, surface, context, session_id, timeout_ms, explain)
        answer: Future[RankedList] = Future()
        with self._lock:
            self._waiting[request.request_id] = answer
            self.counters["asked"] += 1
        try:
            key = user_key(request.user_id, request.session_id).encode()
            self._producer.send(self._requests, key=key, value=encode_json(request))
            return answer.result(timeout=timeout_ms / 1000)
        except (FutureTimeout, KafkaError) as error:
            self._count("timed_out")
            because = f": {error}" if isinstance(error, KafkaError) else ""
            raise RankTimeout(f"no ranked list for {user or session_id} within {timeout_ms} ms{because}") from error
        finally:
            with self._lock:
                self._waiting.pop(request.request_id, None)

    def close(self) -> None:
        self._closed.set()
        self._reader.join(timeout=2)
        self._consumer.close()
        self._producer.close(timeout=1)

    def __enter__(self) -> RankRequester:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        while not self._closed.is_set():
            try:
                batches = self._consumer.poll(timeout_ms=_POLL_MS)
            except Exception:
                self._count("reader_errors")
                self._closed.wait(_RETRY_S)
                continue
            for records in batches.values():
                for record in records:
                    self._hand_over(record.key, record.value)

    def _hand_over(self, key: bytes | None, value: bytes | None) -> None:
        # The key first: on a shared topic most answers belong to others, and need not be decoded.
        request_id = (key or b"").decode(errors="replace")
        with self._lock:
            answer = self._waiting.pop(request_id, None)
        if answer is None:
            return
        try:
            response = decode_response(value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            answer.set_exception(RankError(f"the answer cannot be read by this release: {error}"))
            self._count("refused")
            return
        if response.list is None:
            answer.set_exception(RankError(response.error or "the engine answered without a list or a reason"))
            self._count("refused")
            return
        answer.set_result(response.list)
        self._count("answered")

    def _count(self, name: str) -> None:
        with self._lock:
            self.counters[name] += 1


def _request(
    user: str | None,
    candidates: Sequence[str] | None,
    k: int,
    surface: str,
    context: Context | Mapping[str, Any] | None,
    session_id: str | None,
    timeout_ms: int,
    explain: bool,
) -> RankRequest:
    """A validated request. Raises InvalidArgument naming the field."""
    if user is None and session_id is None:
        raise InvalidArgument("name the user, or the session_id of an anonymous one")
    if timeout_ms <= 0:
        raise InvalidArgument(f"timeout_ms must be positive, not {timeout_ms}")
    now_ms = int(time.time() * 1000)
    body = {
        "request_id": uuid.uuid4().hex,
        "session_id": session_id,
        "ts_ms": now_ms,
        "schema_version": SCHEMA_VERSION,
        "user_id": user,
        "surface": surface,
        "k": k,
        "candidates": None if candidates is None else list(candidates),
        "context": msgspec.to_builtins(context),
        "reply_by_ms": now_ms + timeout_ms,
        "explain": explain,
    }
    try:
        # Through JSON, which is how the engine will read it.
        return decode_request(encode_json(body))
    except (msgspec.ValidationError, TypeError) as error:
        raise InvalidArgument(f"the request cannot be sent: {error}") from error
