"""StoreTopLists: the async operator that writes top lists to Redis on their way to Kafka. Process mode.

An empty list becomes a record without a value (the compacted topic forgets it), and an empty list in Redis. Nothing here may raise
or be cancelled: either would hang the bundle. What Redis did not take goes on to Kafka all the same, and to Redis as soon as that
answers.
"""

from __future__ import annotations

import logging

from pyflink.common import Row
from pyflink.datastream.functions import AsyncFunction, RuntimeContext

from schemas.connections import Connections
from schemas.keys import top_list_redis_key
from schemas.redis_layout import TOP_LIST_FIELD, TOP_LIST_TTL_MS, Entry, cas_arguments, version
from schemas.top_lists import decode_top_list
from udfs.outputs import Totals, watch
from udfs.redis_writer import RedisWriter

log = logging.getLogger(__name__)

UID = "store-top-lists"
COUNTERS = ("lists_stored", "redis_failures", "lists_failed")
_REDIS_LIMIT_S = 0.25  # nobody waits for it as for a ranked list


class StoreTopLists(AsyncFunction):
    """Takes and emits records for `top-lists` (jobs.streams.OUTPUT_TYPE)."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def open(self, runtime_context: RuntimeContext) -> None:
        self._connections.require_secrets()
        metrics = runtime_context.get_metrics_group()
        self._counters = Totals(metrics, COUNTERS)
        self._redis: RedisWriter | None = None
        watch(metrics, "redis_writes_owed", lambda: len(self._redis.owed) if self._redis else 0)
        watch(metrics, "redis_writes_lost", lambda: self._redis.owed.lost if self._redis else 0)

    async def async_invoke(self, value: Row) -> list[Row]:
        try:
            return [await self._store(value)]
        except BaseException as error:  # see the module's docstring
            self._counters.add("lists_failed")
            log.exception("a top list was not written to Redis: %s", type(error).__name__)
            return [value]

    async def _store(self, value: Row) -> Row:
        if self._redis is None:  # the clients of the event loop can only be made on it
            self._redis = RedisWriter(self._connections.redis, _REDIS_LIMIT_S)
        topic, key, body, headers = value
        told = decode_top_list(bytes(body))
        name = top_list_redis_key(self._connections.redis_namespace, bytes(key).decode())
        at = version(told.state_epoch, told.list_no)
        entry = Entry(name, TOP_LIST_FIELD, bytes(body))
        reached = await self._redis.write(*cas_arguments(at, TOP_LIST_TTL_MS, [entry]))
        self._counters.add("lists_stored" if reached else "redis_failures")
        return value if told.items else Row(topic, key, None, headers)
