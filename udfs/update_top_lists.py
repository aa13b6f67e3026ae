"""UpdateTopLists: what is chosen together with an item, and what is chosen most in a context. Thread mode, RocksDB.

Key: `<kind>|<name>` (schemas.top_lists), and `late|`, `flagged|`, `not_allowed|` for what is only counted (no state is kept).
State: one versioned blob (udfs.logic.top_lists) of bounded size; cleared when all of it has faded.
A list goes out only where its names or their order change. Late sessions weigh what they would have; what has faded is taken out
by an event-time timer, one for each key.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from pyflink.common import Row
from pyflink.common.typeinfo import Types
from pyflink.datastream.functions import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import ValueStateDescriptor

from schemas import topics
from schemas.record import TopicRecord
from schemas.top_lists import TopList, encode_top_list
from udfs.logic.item_aggregates import SLICE_MS
from udfs.logic.top_lists import (
    LIMITS,
    ListState,
    apply,
    decode,
    encode,
    fade,
    listed,
    next_fade,
    to_tell,
    window_end_ms,
)
from udfs.outputs import Counters, require_thread_mode, to_row

UID = "update-top-lists"

# What it receives: a slice of five minutes, and sessions by name.
FIELDS = ("slice", "sessions")

LATE, FLAGGED, NOT_ALLOWED = "late", "flagged", "not_allowed"


class UpdateTopLists(KeyedProcessFunction):
    """Reads state, calls udfs.logic.top_lists, writes state, emits records for `top-lists`."""

    def __init__(self, state_epoch: int, namespace: str) -> None:
        self._state_epoch, self._namespace = state_epoch, namespace

    def open(self, runtime_context: RuntimeContext) -> None:
        require_thread_mode(UID, runtime_context)
        # Bytes travel pickled: a plain byte-array state raises when it is empty in thread mode.
        self._state = runtime_context.get_state(ValueStateDescriptor("list", Types.PICKLED_BYTE_ARRAY()))
        self._counters = Counters(runtime_context.get_metrics_group())

    def process_element(self, value: Row, ctx: Any) -> Iterator[Row]:
        key = ctx.get_current_key()
        kind = key.partition("|")[0]
        slice_no, sessions = value
        if kind in (LATE, FLAGGED, NOT_ALLOWED):
            self._counters.add(f"choices_{kind}", sum(sessions.values()))
            return
        self._counters.add("deltas")
        blob = self._state.value()
        state = decode(blob) if blob else ListState()
        apply(state, LIMITS[kind], slice_no, sessions)
        yield from self._keep(state, key, kind, ctx)

    def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Row]:
        blob = self._state.value()
        if not blob:
            return
        key = ctx.get_current_key()
        kind = key.partition("|")[0]
        state = decode(blob)
        state.timer = 0
        fade(state, LIMITS[kind], timestamp // SLICE_MS)
        yield from self._keep(state, key, kind, ctx)

    def _keep(self, state: ListState, key: str, kind: str, ctx: Any) -> Iterator[Row]:
        """Emit what is news, set the timer, write state."""
        limits = LIMITS[kind]
        found = listed(state, limits)
        names = [name for name, _ in found]
        if to_tell(state, names):
            # Rises with every list, and over a state that was cleared in between as well.
            state.list_no = max(state.list_no + 1, int(time.time() * 1000))
            weights = [weight for _, weight in found]
            told = TopList(
                self._state_epoch,
                state.list_no,
                window_end_ms(state),
                limits.half_life_ms,
                round(state.total, 3),
                names,
                weights,
            )
            self._counters.add("lists")
            yield to_row(TopicRecord(topics.TOP_LISTS, key.encode(), encode_top_list(told)), self._namespace)
        due = next_fade(state, limits)
        # A timer that comes too early, because more has come since, finds nothing to take out and sets the next.
        if due is not None and (not state.timer or due < state.timer):
            state.timer = due
            ctx.timer_service().register_event_time_timer(due * SLICE_MS)
        if state.is_empty():
            self._state.clear()
        else:
            self._state.update(encode(state))
