"""StoreTopLists: writes top lists to Redis on their way to Kafka.

An empty list becomes a record without a value (the compacted topic forgets it), and an empty list in Redis.
"""

from __future__ import annotations

from pyflink.common import Row
from pyflink.datastream.functions import RuntimeContext

from schemas.keys import top_list_redis_key
from schemas.redis_layout import TOP_LIST_FIELD, TOP_LIST_TTL_MS, Entry, version
from schemas.top_lists import decode_top_list
from udfs.store_in_redis import StoreInRedis, Told

UID = "store-top-lists"


class StoreTopLists(StoreInRedis):
    """Of records for `top-lists`."""

    kind, said = "lists", "a top list was"

    def open(self, runtime_context: RuntimeContext) -> None:
        super().open(runtime_context)
        self.watch_owed(runtime_context)

    def told(self, value: Row) -> Told:
        topic, key, body, headers = value
        found = decode_top_list(bytes(body))
        name = top_list_redis_key(self._connections.redis_namespace, bytes(key).decode())
        return Told(
            version(found.state_epoch, found.list_no),
            TOP_LIST_TTL_MS,
            Entry(name, TOP_LIST_FIELD, bytes(body)),
            value if found.items else Row(topic, key, None, headers),
        )
