"""The state path on Quix Streams, in an environment of its own: the same functions, the same state bytes, RocksDB, exactly once.

python bench/quix/job.py BROKERS OUT_NAMESPACE STATE_FOLDER      (bench/state.py runs it; PYTHONPATH names the checkout)
"""

from __future__ import annotations

import sys
import time
from typing import Any

from quixstreams import Application, State, message_context
from quixstreams.models.serializers import Serializer

from bench.session import OUT, step
from schemas import topics
from schemas.record import Record, TopicRecord

_COMMIT_S = 5.0  # as flink-conf/config.yaml: execution.checkpointing.interval


class _Value(Serializer):
    def __call__(self, value: TopicRecord, ctx: Any) -> bytes | None:
        return value.value


def update(value: bytes, key: bytes, timestamp: int, _headers: Any, state: State) -> list[TopicRecord]:
    place = message_context()
    name = key.decode()
    record = Record(topics.EVENTS, name, value, place.partition, place.offset, timestamp)
    store, outputs = step(state.get_bytes("user"), name, record, int(time.time() * 1000))
    if store is not None:
        state.set_bytes("user", store)
    return outputs


def main(brokers: str, namespace: str, folder: str) -> None:
    app = Application(
        broker_address=brokers,
        consumer_group=f"quix-{namespace}",
        state_dir=folder,
        auto_offset_reset="earliest",
        commit_interval=_COMMIT_S,
        processing_guarantee="exactly-once",
        producer_extra_config={"compression.type": "lz4"},
        loglevel="WARNING",
    )
    events = app.topic(topics.EVENTS, key_deserializer="bytes", value_deserializer="bytes")
    outs = {name: app.topic(namespace + name, key_serializer="bytes", value_serializer=_Value()) for name in OUT}
    records = app.dataframe(events).apply(update, stateful=True, metadata=True, expand=True)
    records.to_topic(lambda record, *_: outs[record.topic], key=lambda record: record.key)
    app.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
