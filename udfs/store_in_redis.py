"""StoreInRedis: the async operator that writes records to Redis on their way to Kafka. Process mode.

record ─ told: where it belongs, and what goes on ─ compare-and-set in Redis ─ counted ─► what goes on

Nothing here may raise or be cancelled: either would hang the bundle. What Redis did not take goes on to Kafka all the same, and to
Redis as soon as that answers.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import NamedTuple

from pyflink.common import Row
from pyflink.datastream.functions import AsyncFunction, RuntimeContext

from schemas.connections import Connections
from schemas.redis_layout import Entry, cas_arguments
from udfs.outputs import Totals, watch
from udfs.redis_writer import RedisWriter

_REDIS_LIMIT_S = 0.25  # nobody waits for it as for a ranked list


class Told(NamedTuple):
    """Of one record. `version` is schemas.redis_layout.version's: Redis keeps the highest."""

    version: str
    ttl_ms: int
    entry: Entry
    goes_on: Row


class StoreInRedis(AsyncFunction, ABC):
    """Takes and emits records of one topic (jobs.streams.OUTPUT_TYPE). `kind` names the counters, `said` a record in the log."""

    kind: str
    said: str

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    @abstractmethod
    def told(self, value: Row) -> Told:
        """Where the record belongs in Redis."""

    def open(self, runtime_context: RuntimeContext) -> None:
        self._connections.require_secrets()
        counters = (f"{self.kind}_stored", "redis_failures", f"{self.kind}_failed")
        self._counters = Totals(runtime_context.get_metrics_group(), counters)
        self._redis: RedisWriter | None = None

    def watch_owed(self, runtime_context: RuntimeContext) -> None:
        """Gauges of what waits until Redis answers."""
        metrics = runtime_context.get_metrics_group()
        watch(metrics, "redis_writes_owed", lambda: len(self._redis.owed) if self._redis else 0)
        watch(metrics, "redis_writes_lost", lambda: self._redis.owed.lost if self._redis else 0)

    async def async_invoke(self, value: Row) -> list[Row]:
        try:
            return [await self._store(value)]
        except BaseException as error:  # see the module's docstring
            self._counters.add(f"{self.kind}_failed")
            log = logging.getLogger(type(self).__module__)
            log.exception("%s not written to Redis: %s", self.said, type(error).__name__)
            return [value]

    async def _store(self, value: Row) -> Row:
        if self._redis is None:  # the clients of the event loop can only be made on it
            self._redis = RedisWriter(self._connections.redis, _REDIS_LIMIT_S)
        told = self.told(value)
        reached = await self._redis.write(*cas_arguments(told.version, told.ttl_ms, [told.entry]))
        self._counters.add(f"{self.kind}_stored" if reached else "redis_failures")
        return told.goes_on
