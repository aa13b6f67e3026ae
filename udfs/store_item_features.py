"""StoreItemFeatures: the async operator that writes rows of item features to Redis on their way to Kafka. Process mode.

A row on which nothing is left becomes a record without a value (the compacted topic forgets it), and a row of zeros in Redis.
Nothing here may raise or be cancelled: either would hang the bundle. A row that Redis did not take goes on to Kafka all the
same, and to Redis as soon as that answers.
"""

from __future__ import annotations

import logging

from pyflink.common import Row
from pyflink.datastream.functions import AsyncFunction, RuntimeContext

from schemas.connections import Connections
from schemas.features_row import RowCodec
from schemas.keys import item_features_redis_key
from schemas.redis_layout import ROW_FIELD, ROW_TTL_MS, Entry, cas_arguments, version
from udfs.outputs import Totals, watch
from udfs.redis_writer import RedisWriter

log = logging.getLogger(__name__)

UID = "store-item-features"
COUNTERS = ("rows_stored", "redis_failures", "rows_failed")
_REDIS_LIMIT_S = 0.25  # nobody waits for a row as for a list


class StoreItemFeatures(AsyncFunction):
    """Takes and emits records for `item-features` (jobs.streams.OUTPUT_TYPE)."""

    def __init__(self, connections: Connections, codec: RowCodec) -> None:
        self._connections, self._codec = connections, codec

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
            self._counters.add("rows_failed")
            log.exception("a row was not written to Redis: %s", type(error).__name__)
            return [value]

    async def _store(self, value: Row) -> Row:
        if self._redis is None:  # the clients of the event loop can only be made on it
            self._redis = RedisWriter(self._connections.redis, _REDIS_LIMIT_S)
        topic, record_key, body, headers = value
        key, row = self._codec.row_key(bytes(record_key)), self._codec.decode(bytes(body))
        name = item_features_redis_key(self._connections.redis_namespace, self._codec.version, str(key))
        at = version(row.state_epoch, row.row_no)
        reached = await self._redis.write(*cas_arguments(at, ROW_TTL_MS, [Entry(name, ROW_FIELD, bytes(body))]))
        self._counters.add("rows_stored" if reached else "redis_failures")
        return value if any(row.counts) else Row(topic, record_key, None, headers)
