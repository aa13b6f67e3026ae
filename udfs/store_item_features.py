"""StoreItemFeatures: writes rows of item features to Redis on their way to Kafka.

A row on which nothing is left becomes a record without a value (the compacted topic forgets it), and a row of zeros in Redis.
"""

from __future__ import annotations

from pyflink.common import Row
from pyflink.datastream.functions import RuntimeContext

from schemas.connections import Connections
from schemas.features_row import RowCodec
from schemas.keys import item_features_redis_key
from schemas.redis_layout import ROW_FIELD, ROW_TTL_MS, Entry, version
from udfs.store_in_redis import StoreInRedis, Told

UID = "store-item-features"


class StoreItemFeatures(StoreInRedis):
    """Of records for `item-features`."""

    kind, said = "rows", "a row was"

    def __init__(self, connections: Connections, codec: RowCodec) -> None:
        super().__init__(connections)
        self._codec = codec

    def open(self, runtime_context: RuntimeContext) -> None:
        super().open(runtime_context)
        self.watch_owed(runtime_context)

    def told(self, value: Row) -> Told:
        topic, record_key, body, headers = value
        key, row = self._codec.row_key(bytes(record_key)), self._codec.decode(bytes(body))
        name = item_features_redis_key(self._connections.redis_namespace, self._codec.version, str(key))
        return Told(
            version(row.state_epoch, row.row_no),
            ROW_TTL_MS,
            Entry(name, ROW_FIELD, bytes(body)),
            value if any(row.counts) else Row(topic, record_key, None, headers),
        )
