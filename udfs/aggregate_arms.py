"""AggregateArms: totals of each arm over all its units. Thread mode, RocksDB.

Key: `<experiment>|<arm>|<surface>|<segment>`. State: one JSON blob, the ArmMetrics last sent; arms are few, and kept until the job
starts without state. Deltas come summed over two seconds, so an arm changes as rarely, however many users it has. Nothing here is
late or bad: what was is left out by update-experiment-metrics.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec
from pyflink.common import Row
from pyflink.common.typeinfo import Types
from pyflink.datastream.functions import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import ValueStateDescriptor

from schemas import topics
from schemas.experiment_metrics import COUNTED, RATIOS, ArmMetrics, decode_arm, encode_arm
from schemas.record import TopicRecord
from udfs.outputs import Counters, require_thread_mode, to_row

UID = "aggregate-arms"


class AggregateArms(KeyedProcessFunction):
    """Takes rows of sums, in the order of COUNTED."""

    def __init__(self, state_epoch: int, namespace: str) -> None:
        self._state_epoch, self._namespace = state_epoch, namespace

    def open(self, runtime_context: RuntimeContext) -> None:
        require_thread_mode(UID, runtime_context)
        # Bytes travel pickled: a plain byte-array state raises when it is empty in thread mode.
        self._state = runtime_context.get_state(ValueStateDescriptor("arm", Types.PICKLED_BYTE_ARRAY()))
        self._counters = Counters(runtime_context.get_metrics_group())

    def process_element(self, value: Row, ctx: Any) -> Iterator[Row]:
        key = ctx.get_current_key()
        blob = self._state.value()
        before = decode_arm(blob) if blob else _nothing(key)
        total = added(before, list(value), self._state_epoch, int(time.time() * 1000))
        encoded = encode_arm(total)
        self._state.update(encoded)
        self._counters.add("arm_totals")
        yield to_row(TopicRecord(topics.EXPERIMENT_METRICS, key.encode(), encoded), self._namespace)


def added(before: ArmMetrics, sums: list[float], state_epoch: int, now_ms: int) -> ArmMetrics:
    """The totals with the sums added, and the metrics made of them."""
    totals = {name: getattr(before, name) + more for name, more in zip(COUNTED, sums)}
    metrics = {name: totals[value] / totals[weight] for name, (value, weight) in RATIOS.items() if totals[weight]}
    return msgspec.structs.replace(
        before,
        **totals,
        metrics=metrics,
        state_epoch=state_epoch,
        update_no=max(before.update_no + 1, now_ms),  # rises over a state that was lost as well
    )


def _nothing(key: str) -> ArmMetrics:
    experiment, arm, surface, segment = key.split("|")
    return ArmMetrics(experiment=experiment, arm=arm, surface=surface, segment=segment, state_epoch=0, update_no=0)
