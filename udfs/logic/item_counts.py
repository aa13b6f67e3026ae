"""Counters of all items, groups and contexts in memory, from interactions in order of append time: the job, in one process.

    interaction ─ counted_under ─ its keys ─┬─ item ─ subcategory, category: as the catalogue says at that moment
                                            └─ all, surface, device, geo, hour

`counted_under` says what the job's SQL says (jobs/item_aggregates.py); tests/integration holds the two together. What a slice
is, what leaves a window and how a row is made is the job's own code.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import NamedTuple

from schemas.event import Purchase, Return
from schemas.features import Registry
from schemas.features_row import ALL, RowKey
from schemas.interaction import Interaction
from schemas.items import Item
from udfs.logic.item_aggregates import (
    ACTIONS,
    LATENESS_MS,
    SLICE_MS,
    AggregateState,
    advance,
    apply,
    columns_of,
    decode,
    encode,
    next_change,
    row_counts,
)

_HOUR_MS = 3_600_000
_PLACES = {action: place for place, action in enumerate(ACTIONS)}
_ONE = tuple([int(place == action) for place in range(len(ACTIONS))] for action in range(len(ACTIONS)))


class Change(NamedTuple):
    """A key whose columns are others now, and the interaction that it was; None where time took something out."""

    key: RowKey
    counts: tuple[int, ...]
    subcategory: str | None
    category: str | None
    cause: Interaction | None


def counted_under(one: Interaction) -> Iterator[RowKey]:
    """What an interaction counts for, an order once a line; nothing for an action that no slice counts."""
    event = one.event
    if event.event_type not in _PLACES:
        return
    if isinstance(event, (Purchase, Return)):
        items = [line.item_id for line in event.props.items]
    else:
        items = [event.item_id] if event.item_id is not None else []
    props = event.props
    context = props.context
    for item_id in items:
        yield RowKey("item", item_id)
        yield ALL
        if props.surface is not None:
            yield RowKey("surface", props.surface)
        if context is not None and context.device is not None:
            yield RowKey("device", context.device)
        if context is not None and context.geo is not None:
            yield RowKey("geo", context.geo)
        yield RowKey("hour", f"{one.ts_ms // _HOUR_MS % 24:02d}")


class ItemCounts:
    """Counts of the registry's columns. `late` interactions are counted nowhere else."""

    def __init__(self, features: Registry) -> None:
        self._columns = columns_of(features)
        self._states: dict[RowKey, AggregateState] = {}
        self._timers: list[tuple[int, RowKey]] = []
        self.late = 0

    def __len__(self) -> int:
        return len(self._states)

    def keys(self) -> set[RowKey]:
        """What is counted, and what the catalogue knows."""
        return set(self._states)

    def take(self, one: Interaction) -> list[Change]:
        """Count an interaction; the keys it changed."""
        if one.flagged:
            return []
        if one.append_ms - one.ts_ms > LATENESS_MS:
            self.late += 1
            return []
        touched: dict[RowKey, AggregateState] = {}
        slice_no = one.ts_ms // SLICE_MS
        for key in counted_under(one):
            counts = _ONE[_PLACES[one.event.event_type]]
            state = touched[key] = self._count(key, slice_no, counts)
            if key.level == "item":
                for group in _groups(state):
                    touched[group] = self._count(group, slice_no, counts)
        return [self._change(key, state, one) for key, state in touched.items()]

    def describe(self, item_id: str, item: Item | None) -> None:
        """What the catalogue says from now on; None where it no longer has the item."""
        key = RowKey("item", item_id)
        state = self._states.setdefault(key, AggregateState())
        state.known = item is not None
        state.subcategory = item.subcategory if item is not None else None
        state.category = item.category if item is not None else None
        if state.is_empty():
            del self._states[key]

    def advance(self, now_ms: int) -> list[Change]:
        """Time has reached `now_ms`; the keys from whose windows something went."""
        found = []
        while self._timers and self._timers[0][0] * SLICE_MS <= now_ms:
            due, key = heapq.heappop(self._timers)
            state = self._states.get(key)
            if state is None or state.timer != due:
                continue
            state.timer = 0
            before = row_counts(state, self._columns)
            advance(state, due)
            self._keep(key, state)
            if row_counts(state, self._columns) != before:
                found.append(self._change(key, state, None))
        return found

    def counts(self, key: RowKey) -> tuple[int, ...] | None:
        """The columns of a key as of the last `take` and `advance`; None where nothing is counted under it."""
        state = self._states.get(key)
        return row_counts(state, self._columns) if state is not None and (state.slices or state.days) else None

    def counts_as_of(self, key: RowKey, window_end_ms: int) -> tuple[int, ...]:
        """The columns of a key as of a row whose windows end then; zeros where nothing is counted."""
        held = self._states.get(key)
        if held is None:
            return (0,) * len(self._columns)
        state = decode(encode(held))
        advance(state, window_end_ms // SLICE_MS - 1)
        return row_counts(state, self._columns)

    def groups_of(self, item_id: str) -> list[RowKey]:
        """Subcategory and category of an item, those it has."""
        state = self._states.get(RowKey("item", item_id))
        return list(_groups(state)) if state is not None else []

    def dump(self) -> dict[str, bytes]:
        """All state, to be kept somewhere else."""
        return {str(key): encode(state) for key, state in self._states.items()}

    def restore(self, dumped: dict[str, bytes]) -> None:
        for text, blob in dumped.items():
            level, _, name = text.partition("|")
            key, state = RowKey(level, name), decode(blob)
            self._states[key] = state
            if state.timer:
                heapq.heappush(self._timers, (state.timer, key))

    def _count(self, key: RowKey, slice_no: int, counts: list[int]) -> AggregateState:
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = AggregateState()
        apply(state, slice_no, counts)
        self._keep(key, state)
        return state

    def _keep(self, key: RowKey, state: AggregateState) -> None:
        """Set the timer; forget what is empty."""
        due = next_change(state, self._columns)
        if due is not None and (not state.timer or due < state.timer):
            state.timer = due
            heapq.heappush(self._timers, (due, key))
        if state.is_empty():
            self._states.pop(key, None)

    def _change(self, key: RowKey, state: AggregateState, cause: Interaction | None) -> Change:
        return Change(key, row_counts(state, self._columns), state.subcategory, state.category, cause)


def _groups(state: AggregateState) -> Iterator[RowKey]:
    if state.subcategory:
        yield RowKey("subcategory", state.subcategory)
    if state.category:
        yield RowKey("category", state.category)
