"""What operators emit and count: rows on their way to topics, and named counters."""

from __future__ import annotations

from pyflink.common import Row
from pyflink.metrics import Counter, MetricGroup

from schemas import topics
from schemas.record import TopicRecord

# `interactions` because other jobs count on it; `identity` because a merge must not be seen before the checkpoint that empties
# the anonymous state: after a failure it could otherwise arrive twice with different content.
EXACTLY_ONCE_TOPICS = frozenset({topics.INTERACTIONS, topics.IDENTITY})


def to_row(record: TopicRecord, namespace: str = "") -> Row:
    return Row(namespace + record.topic, record.key, record.value, record.headers)


class Counters:
    """Flink counters by name, made on first use."""

    def __init__(self, group: MetricGroup | None) -> None:
        self._group = group
        self._counters: dict[str, Counter] = {}

    def add(self, name: str, times: int = 1) -> None:
        counter = self._counters.get(name)
        if counter is None:
            if self._group is None:
                return
            counter = self._counters[name] = self._group.counter(name)
        counter.inc(times)
