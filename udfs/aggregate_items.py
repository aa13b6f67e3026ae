"""AggregateItems: counters of items, groups and contexts over sliding windows. Thread mode, RocksDB.

Key: `<level>|<name>` (schemas.features_row), and `late|`, `flagged|`, `unreadable|` for what is only counted (no state is kept).
State: one versioned blob (udfs.logic.item_aggregates); cleared when nothing is left to count and the catalogue has no such item.
A row goes out only where a column changed. Late deltas correct the windows they still lie in; what leaves a window is taken
out by an event-time timer, one for each key.

Main output: deltas for the groups of an item, keyed by the group. Tagged output: rows for `item-features`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec
from pyflink.common import Row
from pyflink.common.typeinfo import Types
from pyflink.datastream import OutputTag
from pyflink.datastream.functions import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import ValueStateDescriptor

from schemas import topics
from schemas.features_row import ItemRow, RowCodec, RowKey
from schemas.items import decode_item
from schemas.record import TopicRecord
from udfs.logic.item_aggregates import (
    ACTIONS,
    SLICE_MS,
    AggregateState,
    Column,
    advance,
    apply,
    decode,
    encode,
    next_change,
    row_counts,
    window_end_ms,
)
from udfs.outputs import Counters, require_thread_mode, to_row

AGGREGATE_ITEMS, AGGREGATE_GROUPS = "aggregate-items", "aggregate-groups"

# What it receives: a delta; or, where `slice` is CATALOGUE, a record of `items`, whose value is null for a removed one.
DELTA_FIELDS = ("slice", *(f"n{place}" for place in range(len(ACTIONS))), "item")
CATALOGUE = -1

LATE, FLAGGED, UNREADABLE = "late", "flagged", "unreadable"


class AggregateItems(KeyedProcessFunction):
    """Reads state, calls udfs.logic.item_aggregates, writes state, emits."""

    def __init__(
        self, uid: str, state_epoch: int, codec: RowCodec, columns: tuple[Column, ...], rows: OutputTag, namespace: str
    ) -> None:
        self._uid, self._state_epoch, self._codec, self._columns = uid, state_epoch, codec, columns
        self._rows, self._namespace = rows, namespace

    def open(self, runtime_context: RuntimeContext) -> None:
        require_thread_mode(self._uid, runtime_context)
        # Bytes travel pickled: a plain byte-array state raises when it is empty in thread mode.
        self._state = runtime_context.get_state(ValueStateDescriptor("counts", Types.PICKLED_BYTE_ARRAY()))
        self._counters = Counters(runtime_context.get_metrics_group())

    def process_element(self, value: Row, ctx: Any) -> Iterator[Any]:
        level, _, name = ctx.get_current_key().partition("|")
        slice_no, *counts, item = value
        if level in (LATE, FLAGGED, UNREADABLE):
            self._counters.add(f"interactions_{level}", sum(counts))
            return
        blob = self._state.value()
        state = decode(blob) if blob else AggregateState()
        before = self._columns_of(state)
        if slice_no == CATALOGUE:
            self._describe(state, item)
        else:
            self._counters.add("deltas")
            apply(state, slice_no, counts)
            if state.subcategory:
                yield Row(f"subcategory|{state.subcategory}", slice_no, *counts)
            if state.category:
                yield Row(f"category|{state.category}", slice_no, *counts)
        yield from self._keep(state, before, RowKey(level, name), ctx)

    def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Any]:
        blob = self._state.value()
        if not blob:
            return
        level, _, name = ctx.get_current_key().partition("|")
        state = decode(blob)
        before = self._columns_of(state)
        state.timer = 0
        advance(state, timestamp // SLICE_MS)
        yield from self._keep(state, before, RowKey(level, name), ctx)

    def _describe(self, state: AggregateState, raw: bytes | None) -> None:
        """What the catalogue says: which groups the item counts for from now on."""
        if raw is None:
            state.known, state.subcategory, state.category = False, None, None
            return
        try:
            item = decode_item(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._counters.add("items_unreadable")  # the item stays what it was; the ranking workers' copy logs why
            return
        state.known, state.subcategory, state.category = True, item.subcategory, item.category

    def _columns_of(self, state: AggregateState) -> tuple[Any, ...]:
        return row_counts(state, self._columns), state.subcategory, state.category

    def _keep(self, state: AggregateState, before: tuple[Any, ...], key: RowKey, ctx: Any) -> Iterator[Any]:
        """Emit what changed, set the timer, write state."""
        after = self._columns_of(state)
        counts, *groups = after
        if after != before and (any(counts) or any(before[0])):
            # Rises with every row, and over a state that was cleared in between as well.
            state.row_no = max(state.row_no + 1, int(time.time() * 1000))
            row = ItemRow(self._state_epoch, state.row_no, window_end_ms(state), counts, *groups)
            record = TopicRecord(topics.ITEM_FEATURES, self._codec.record_key(key), self._codec.encode(row))
            self._counters.add("rows")
            yield self._rows, to_row(record, self._namespace)
        change = next_change(state, self._columns)
        if change is not None and (not state.timer or change < state.timer):
            state.timer = change
            ctx.timer_service().register_event_time_timer(change * SLICE_MS)
        if state.is_empty():
            self._state.clear()
        else:
            self._state.update(encode(state))
