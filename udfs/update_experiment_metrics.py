"""UpdateExperimentMetrics: totals of each user in each arm, from lists and interactions. Thread mode, RocksDB.

Key: the user, as on `interactions`; `p:<topic>:<partition>` for records without one (no state is kept).
State: one versioned blob (schemas.experiment_state): the totals of the last three days, and up to 32 drafted lists of the last. It
is cleared 35 days after the user's last record by an event-time timer. Records of a day whose totals are gone are counted and left
out, and so is what cannot be read; all decisions are in udfs.logic.experiment_log.

Main output: by how much an arm's totals changed. Tagged output: records for `experiment-units`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from pyflink.common import Row
from pyflink.common.typeinfo import Types
from pyflink.datastream import OutputTag
from pyflink.datastream.functions import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import ValueStateDescriptor

from schemas import topics
from schemas.experiment_metrics import COUNTED, encode_unit, unit_key
from schemas.experiment_state import ExperimentState, decode, encode
from schemas.interaction import decode_interaction
from schemas.keys import PARTITION_PREFIX
from schemas.ranking import decode_list
from schemas.record import Record, TopicRecord
from udfs.logic.experiment_log import IDLE_MS, Taken, take_interaction, take_list
from udfs.outputs import Counters, require_thread_mode, to_row

UID = "update-experiment-metrics"


class UpdateExperimentMetrics(KeyedProcessFunction):
    """Reads state, calls udfs.logic.experiment_log, writes state, emits."""

    def __init__(self, units: OutputTag, namespace: str) -> None:
        self._units, self._namespace = units, namespace

    def open(self, runtime_context: RuntimeContext) -> None:
        require_thread_mode(UID, runtime_context)
        # Bytes travel pickled: a plain byte-array state raises when it is empty in thread mode.
        self._state = runtime_context.get_state(ValueStateDescriptor("experiments", Types.PICKLED_BYTE_ARRAY()))
        self._counters = Counters(runtime_context.get_metrics_group())

    def process_element(self, value: Row, ctx: Any) -> Iterator[Any]:
        record = Record(*value)
        if ctx.get_current_key().startswith(PARTITION_PREFIX):
            self._counters.add("records_unreadable")
            return
        blob = self._state.value()
        state = decode(blob) if blob else ExperimentState()
        try:
            taken = self._take(state, record)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._counters.add("records_unreadable")
            return
        if taken.late:
            self._counters.add("records_late")
        if taken.without_list:
            self._counters.add("clicks_without_list")
        if taken.outside:
            self._counters.add("outcomes_outside")
        if not blob and not taken.units:
            return  # a user in no experiment costs no state
        due_ms = record.append_ms + IDLE_MS
        if not state.timer_ms:
            state.timer_ms = due_ms
            ctx.timer_service().register_event_time_timer(due_ms)
        state.touched_ms = max(state.touched_ms, record.append_ms)
        self._state.update(encode(state))
        for one in taken.units:
            self._counters.add("totals")
            total = TopicRecord(topics.EXPERIMENT_UNITS, unit_key(one, ctx.get_current_key()), encode_unit(one))
            yield self._units, to_row(total, self._namespace)
        for delta in taken.deltas:
            sums = [getattr(delta, field) for field in COUNTED]
            if any(sums):  # a win alone is of a unit's totals only
                yield Row(f"{delta.experiment}|{delta.arm}|{delta.surface}|{delta.segment}", *sums)

    def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Row]:
        blob = self._state.value()
        if not blob:
            return
        state = decode(blob)
        due_ms = state.touched_ms + IDLE_MS
        if due_ms <= timestamp:
            self._state.clear()
            return
        state.timer_ms = due_ms
        ctx.timer_service().register_event_time_timer(due_ms)
        self._state.update(encode(state))
        yield from ()

    def _take(self, state: ExperimentState, record: Record) -> Taken:
        if record.topic == topics.INTERACTIONS:
            self._counters.add("interactions_taken")
            return take_interaction(state, decode_interaction(record.value or b""))
        self._counters.add("lists_taken")
        return take_list(state, decode_list(record.value or b""))
