"""StoreArmMetrics: writes the totals of arms to Redis on their way to Kafka."""

from __future__ import annotations

from pyflink.common import Row

from schemas.experiment_metrics import decode_arm
from schemas.keys import experiment_redis_key
from schemas.redis_layout import ARM_FIELD, ARM_TTL_MS, Entry, version
from udfs.store_in_redis import StoreInRedis, Told

UID = "store-arm-metrics"


class StoreArmMetrics(StoreInRedis):
    """Of records for `experiment-metrics`."""

    kind, said = "arms", "an arm's totals were"

    def told(self, value: Row) -> Told:
        _, key, body, _ = value
        total = decode_arm(bytes(body))
        name = experiment_redis_key(self._connections.redis_namespace, bytes(key).decode())
        at = version(total.state_epoch, total.update_no)
        return Told(at, ARM_TTL_MS, Entry(name, ARM_FIELD, bytes(body)), value)
