"""UpdateUserState: the one operator that owns each user's state. Thread mode, RocksDB.

Key: `u:<user>`, `s:<session>` for the anonymous, `p:<topic>:<partition>` for records without a usable key (no state is kept).
State: one versioned blob (schemas.user_state), read once and written once per record; cleared 90 days after the last record.
Beside it, for one user in 256, a list of what happened (udfs.logic.sampled_parity), of 200 events at most; cleared with the user.
Late events go to `events-late`, bad ones to `events-dlq`, duplicates are counted; all of it in udfs.logic.records.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from pyflink.common import Row
from pyflink.common.typeinfo import Types
from pyflink.datastream import OutputTag
from pyflink.datastream.functions import KeyedBroadcastProcessFunction, RuntimeContext
from pyflink.datastream.state import MapStateDescriptor, ValueStateDescriptor

from schemas import topics
from schemas.control import ActivateBundle, PublishExperiments, decode_control
from schemas.experiments import decode_definition, encode_definition, faults
from schemas.interaction import decode_interaction
from schemas.ranking import encode_task
from schemas.record import Record
from schemas.user_state import decode
from udfs.logic.experiments import Assignment
from udfs.logic.records import Outcome, Rules, Stamp, at_timer, handle
from udfs.logic.sampled_parity import decode_log, differences, encode_log, follow, samples
from udfs.outputs import EXACTLY_ONCE_TOPICS, Counters, require_thread_mode, to_row

log = logging.getLogger(__name__)

UID = "update-user-state"
CONTROL_STATE = MapStateDescriptor("control", Types.STRING(), Types.STRING())
_ACTIVE_BUNDLE, _EXPERIMENTS = "bundle", "experiments"


class UpdateUserState(KeyedBroadcastProcessFunction):
    """Reads state, calls udfs.logic.records, writes state, emits."""

    def __init__(
        self, state_epoch: int, bundle: str | None, rules: Rules, records: OutputTag, exact: OutputTag, namespace: str
    ) -> None:
        self._state_epoch, self._default_bundle, self._rules = state_epoch, bundle, rules
        self._records, self._exact, self._namespace = records, exact, namespace

    def open(self, runtime_context: RuntimeContext) -> None:
        require_thread_mode(UID, runtime_context)
        # Bytes travel pickled: a plain byte-array state raises when it is empty in thread mode.
        self._state = runtime_context.get_state(ValueStateDescriptor("user", Types.PICKLED_BYTE_ARRAY()))
        self._log = runtime_context.get_state(ValueStateDescriptor("sampled", Types.PICKLED_BYTE_ARRAY()))
        self._counters = Counters(runtime_context.get_metrics_group())
        self._stamp: Stamp | None = None
        self._untold_ns = 0

    def process_element(self, value: Row, ctx: Any) -> Iterator[Any]:
        record = Record(*value)
        blob = self._state.value()
        key = ctx.get_current_key()
        now_ms, begun = int(time.time() * 1000), time.perf_counter_ns()
        outcome = handle(decode(blob) if blob else None, key, record, now_ms, self._current_stamp(ctx), self._rules)
        self._counters.add("records", 1)
        self._took(time.perf_counter_ns() - begun)
        yield from self._emit(outcome, key, ctx)

    def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Any]:
        blob = self._state.value()
        if not blob:
            return
        key, now_ms = ctx.get_current_key(), int(time.time() * 1000)
        outcome = at_timer(decode(blob), key, timestamp, now_ms, self._current_stamp(ctx), self._rules)
        yield from self._emit(outcome, key, ctx)

    def process_broadcast_element(self, value: Row, ctx: Any) -> Iterator[Any]:
        try:
            control = decode_control(value[0])
        except Exception:  # whatever stands on the topic must not stop the job
            self._counters.add("control_rejected", 1)
            return
        told = ctx.get_broadcast_state(CONTROL_STATE)
        if isinstance(control, ActivateBundle):
            told.put(_ACTIVE_BUNDLE, control.version)
            self._counters.add("bundles_activated", 1)
        elif isinstance(control, PublishExperiments):
            if faults(control.definition):
                self._counters.add("control_rejected", 1)
                return
            told.put(_EXPERIMENTS, encode_definition(control.definition).decode())
            self._counters.add("experiments_published", 1)
        self._stamp = None  # made anew from what has been told
        yield from ()

    def _took(self, ns: int) -> None:
        """Told by the millisecond: each telling is a call into Java, which takes a microsecond or two itself."""
        self._untold_ns += ns
        if self._untold_ns >= 1_000_000:
            told_us, self._untold_ns = divmod(self._untold_ns, 1000)
            self._counters.add("records_us", told_us)

    def _current_stamp(self, ctx: Any) -> Stamp:
        if self._stamp is None:
            told = ctx.get_broadcast_state(CONTROL_STATE)
            published = told.get(_EXPERIMENTS)
            self._stamp = Stamp(
                self._state_epoch,
                told.get(_ACTIVE_BUNDLE) or self._default_bundle,
                Assignment(decode_definition(published.encode())) if published else None,
            )
        return self._stamp

    def _emit(self, outcome: Outcome, key: str, ctx: Any) -> Iterator[Any]:
        if outcome.clear:
            self._state.clear()
        elif outcome.store is not None:
            self._state.update(outcome.store)
        if samples(key):
            self._check(outcome)
        for timer_ms in outcome.timers_ms:
            ctx.timer_service().register_processing_time_timer(timer_ms)
        for name, times in outcome.counted:
            self._counters.add(name, times)
        for record in outcome.outputs:
            yield (
                (self._exact if record.topic in EXACTLY_ONCE_TOPICS else self._records),
                to_row(record, self._namespace),
            )
        if outcome.task is not None:
            yield encode_task(outcome.task)

    def _check(self, outcome: Outcome) -> None:
        """Of a user in the sample: whether the state is what the list of all that happened says."""
        if outcome.clear:
            self._log.clear()
        applied = [decode_interaction(one.value or b"") for one in outcome.outputs if one.topic == topics.INTERACTIONS]
        if not applied or outcome.store is None:
            return
        kept, state = self._log.value(), decode(outcome.store)
        followed = decode_log(kept) if kept else None
        for one in applied:
            followed = follow(followed, one)
        if followed is None or state.tail.merged:
            if kept:
                self._log.clear()
            return
        self._log.update(encode_log(followed))
        self._counters.add("parity_checked")
        found = differences(followed, state, self._rules.sessions.gap_ms)
        if found:
            self._counters.add("parity_different")
            where = applied[-1]  # by its place: whose it is stays out of the log
            log.warning(
                "a sampled user's %s differ from what happened, at offset %d of partition %d",
                " and ".join(found),
                where.offset,
                where.partition,
            )
