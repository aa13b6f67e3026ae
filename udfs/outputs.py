"""What operators emit and count: rows on their way to topics, and named counters; and the mode that they insist on."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import partial

from pyflink.common import Row
from pyflink.datastream.functions import RuntimeContext
from pyflink.metrics import Counter, MetricGroup

from schemas import topics
from schemas.record import TopicRecord

# `interactions` because other jobs count on it; `identity` because a merge must not be seen before the checkpoint that empties
# the anonymous state: after a failure it could otherwise arrive twice with different content.
EXACTLY_ONCE_TOPICS = frozenset({topics.INTERACTIONS, topics.IDENTITY})


BUCKETS_MS = (10, 25, 50, 100, 250, 1_000)  # upper ends; above them only "+Inf"


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


class Totals:
    """Cumulative totals for an operator of process mode, exported as gauges.

    Such an operator counts on the thread of its event loop, and Beam's counters only hear the thread that runs the bundle;
    gauges are read there at the end of each bundle. All names are registered at the start: a later one would change what
    that thread iterates over.
    """

    def __init__(self, group: MetricGroup | None, names: Iterable[str]) -> None:
        self._totals = dict.fromkeys(names, 0)
        for name in self._totals:
            watch(group, name, partial(self._totals.__getitem__, name))

    def add(self, name: str, times: int = 1) -> None:
        self._totals[name] += times

    def counts(self) -> dict[str, int]:
        return dict(self._totals)


class StageTimes:
    """How long stages take: for each the time spent, and for those named `bucketed` a cumulative histogram.

    A gauge a bucket: PyFlink's distributions export 0 in process mode. Each gauge costs something with every export
    (udfs.beam_overhead), so the buckets are few, and the stages inside the ranking have their sums only.
    """

    def __init__(self, group: MetricGroup | None, summed: Iterable[str], bucketed: Iterable[str]) -> None:
        self._buckets: dict[str, list[int]] = {name: [0] * (len(BUCKETS_MS) + 1) for name in bucketed}
        self._us = dict.fromkeys([*summed, *self._buckets], 0)
        if group is None:
            return
        for name in self._us:
            watch(group.add_group("stage", name), "us_sum", partial(self._us.__getitem__, name))
        for name, counts in self._buckets.items():
            for place, bound in enumerate([*map(str, BUCKETS_MS), "+Inf"]):
                bucket = group.add_group("stage", name).add_group("le", bound)
                watch(bucket, "ms_bucket", partial(counts.__getitem__, place))

    def took(self, stage: str, ms: float) -> None:
        self._us[stage] += int(ms * 1000)
        counts = self._buckets.get(stage)
        if counts is not None:
            for place in range(bisect_left(BUCKETS_MS, ms), len(counts)):
                counts[place] += 1


def watch(group: MetricGroup | None, name: str, read: Callable[[], int]) -> None:
    """Export what `read` answers as a gauge."""
    if group is not None:
        group.gauge(name, read)


def require_thread_mode(uid: str, runtime_context: RuntimeContext) -> None:
    """PyFlink falls back to process mode without a word, and then state costs a round trip each and can crash the worker."""
    if ".process." in type(runtime_context).__module__:
        raise RuntimeError(
            f"{uid} runs in process mode: set python.execution-mode to thread in the job's configuration, "
            "and see the JobManager's log for why Flink fell back"
        )
