"""StoreArmMetrics: the async operator that writes the totals of arms to Redis on their way to Kafka. Process mode.

Nothing here may raise or be cancelled: either would hang the bundle. What Redis did not take goes on to Kafka all the same, and to
Redis as soon as that answers.
"""

from __future__ import annotations

import logging

from pyflink.common import Row
from pyflink.datastream.functions import AsyncFunction, RuntimeContext

from schemas.connections import Connections
from schemas.experiment_metrics import decode_arm
from schemas.keys import experiment_redis_key
from schemas.redis_layout import ARM_FIELD, ARM_TTL_MS, Entry, cas_arguments, version
from udfs.outputs import Totals
from udfs.redis_writer import RedisWriter

log = logging.getLogger(__name__)

UID = "store-arm-metrics"
COUNTERS = ("arms_stored", "redis_failures", "arms_failed")
_REDIS_LIMIT_S = 0.25  # nobody waits for it as for a list


class StoreArmMetrics(AsyncFunction):
    """Takes and emits records for `experiment-metrics` (jobs.streams.OUTPUT_TYPE)."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def open(self, runtime_context: RuntimeContext) -> None:
        self._connections.require_secrets()
        self._counters = Totals(runtime_context.get_metrics_group(), COUNTERS)
        self._redis: RedisWriter | None = None

    async def async_invoke(self, value: Row) -> list[Row]:
        try:
            await self._store(value)
        except BaseException as error:  # see the module's docstring
            self._counters.add("arms_failed")
            log.exception("an arm's totals were not written to Redis: %s", type(error).__name__)
        return [value]

    async def _store(self, value: Row) -> None:
        if self._redis is None:  # the clients of the event loop can only be made on it
            self._redis = RedisWriter(self._connections.redis, _REDIS_LIMIT_S)
        _, key, body, _ = value
        total = decode_arm(bytes(body))
        name = experiment_redis_key(self._connections.redis_namespace, bytes(key).decode())
        at = version(total.state_epoch, total.update_no)
        reached = await self._redis.write(*cas_arguments(at, ARM_TTL_MS, [Entry(name, ARM_FIELD, bytes(body))]))
        self._counters.add("arms_stored" if reached else "redis_failures")
