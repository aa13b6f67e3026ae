"""Load: a Traffic sent at a steady rate from a thread of its own, whatever happens to the engine meanwhile."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

from client.kafka import producer
from schemas import topics
from schemas.connections import Connections
from trials.traffic import Traffic

_DELIVERY_MS = 120_000  # longer than any fault lasts: what was sent must arrive


class LoadFailed(Exception):
    """Records could not be sent: nothing can be said about what became of them."""


class Load:
    """`with Load(where, traffic, rate) as load:` sends until the block ends, then waits for every acknowledgement."""

    def __init__(self, where: Connections, traffic: Traffic, rate: float) -> None:
        self.traffic, self.begun_ms = traffic, int(time.time() * 1000)
        self._topic, self._rate = where.topic(topics.EVENTS), rate
        self._producer = producer(where, self._topic, linger_ms=1, timeout_ms=_DELIVERY_MS)
        self._pending: list[Any] = []
        self._error: Exception | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._send, name="load", daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join(timeout=30)
        try:
            self._producer.flush(timeout=_DELIVERY_MS / 1000)
        finally:
            self._producer.close(timeout=5)
        failed = [future for future in self._pending if not future.succeeded()]
        if kind is None and (self._error is not None or failed):
            raise LoadFailed(f"{len(failed)} records were not acknowledged: {self._error}") from self._error

    def _send(self) -> None:
        number, begun = 0, time.monotonic()
        try:
            while not self._stopped.wait(max(0.0, begun + number / self._rate - time.monotonic())):
                sent = self.traffic.next(int(time.time() * 1000))
                self._pending.append(self._producer.send(self._topic, key=sent.key, value=sent.value))
                number += 1
        except Exception as error:  # told when the block ends: it must not end in silence
            self._error = error
