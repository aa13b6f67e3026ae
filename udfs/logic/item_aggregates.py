"""Counting actions over sliding windows: the state of one item, group or context, and what changes it. No Flink, no clock.

    delta (5-minute slice, counts) ─ apply ─┐
    time passes                    ─ advance┴─ state ─ row_counts ─ the columns of the registry

A state holds 24 slices of five minutes and 28 of a day (UTC), and of each only the actions that occurred. The windows end with
`newest`, the newest slice that came or that time has reached: a window of two hours is that slice and the 23 before it, one of
28 days is its day and the 27 before. A delta for an older slice corrects the windows it still lies in.

Encoded (version 1), little endian:

    version u8 │ flags u8 │ slices u8 │ days u8 │ newest u32 │ timer u32 │ row_no u64 │ entries │ subcategory │ category
    entry: number u32 │ mask u16 │ one u32 for each bit set; names: length u8 and UTF-8
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from schemas.features import FeatureError, Registry

VERSION = 1

# The counters of a delta and of a slice, in this order. Never reorder: state holds their places. New ones go at the end.
ACTIONS = ("impression", "click", "view", "add_to_cart", "remove_from_cart", "purchase", "return", "like", "hide")
SLICE_MS = 300_000
SLICES = 24
DAY_SLICES = 288
DAYS = 28
LATENESS_MS = 2 * 3_600_000

_HEADER = struct.Struct("<BBBBIIQ")
_ENTRY = struct.Struct("<IH")
_KNOWN = 1  # flag: the catalogue has the item
_Key = TypeVar("_Key")


class UnknownStateVersion(ValueError):
    """State written by a release that this one cannot read: upgrade, or start from an older savepoint."""


class Column(NamedTuple):
    """How a column of the row is counted: over the newest `length` slices or days, the sum of some actions."""

    in_days: bool
    length: int
    places: tuple[int, ...]  # in ACTIONS


class AggregateState:
    """Mutable. `slices` and `days` map a slice's or day's number since 1970 to its counts, in the order of ACTIONS."""

    __slots__ = ("category", "days", "known", "newest", "row_no", "slices", "subcategory", "sums", "timer")

    def __init__(self) -> None:
        self.newest = 0
        self.timer = 0  # the slice whose start a timer waits for; 0 where none is set
        self.row_no = 0
        self.known = False
        self.subcategory: str | None = None
        self.category: str | None = None
        self.slices: dict[int, list[int]] = {}
        self.days: dict[int, list[int]] = {}
        # Of windows, by (in_days, length), as far as they were asked for.
        self.sums: dict[tuple[bool, int], list[int]] = {}

    def is_empty(self) -> bool:
        """Whether it may be forgotten."""
        return not (self.slices or self.days or self.known)


def columns_of(features: Registry) -> tuple[Column, ...]:
    """How each column of the registry is counted. Raises FeatureError for one that these slices cannot hold."""
    found = []
    for one in features.item_columns():
        window_ms = one.window_ms or 0
        days, rest = divmod(window_ms, DAY_SLICES * SLICE_MS)
        in_days = days > 0 and rest == 0
        length = days if in_days else window_ms // SLICE_MS
        if window_ms % SLICE_MS or not 1 <= length <= (DAYS if in_days else SLICES):
            raise FeatureError(
                f"{one.id} has the window {one.window}, which item-aggregates cannot count: give a multiple of 5m "
                f"up to 2h, or of 1d up to {DAYS}d."
            )
        unknown = [source for source in one.sources if source not in ACTIONS]
        if unknown or not one.sources:
            named = ", ".join(unknown) or "nothing"
            raise FeatureError(f"{one.id} counts {named}: item-aggregates counts {', '.join(ACTIONS)}.")
        found.append(Column(in_days, length, tuple(ACTIONS.index(source) for source in one.sources)))
    return tuple(found)


def apply(state: AggregateState, slice_no: int, counts: Sequence[int]) -> None:
    """Add a delta. What lies before the windows is not kept."""
    advance(state, slice_no)
    day, today = slice_no // DAY_SLICES, state.newest // DAY_SLICES
    if slice_no > state.newest - SLICES:
        _add(state.slices, slice_no, counts)
    if day > today - DAYS:
        _add(state.days, day, counts)
    for in_days, length in state.sums:
        if (day > today - length) if in_days else (slice_no > state.newest - length):
            _add(state.sums, (in_days, length), counts)


def advance(state: AggregateState, slice_no: int) -> None:
    """Time has reached a slice: drop what leaves the windows."""
    if slice_no <= state.newest:
        return
    state.newest = slice_no
    state.sums.clear()
    _drop(state.slices, slice_no - SLICES)
    _drop(state.days, slice_no // DAY_SLICES - DAYS)


def next_change(state: AggregateState, columns: Iterable[Column]) -> int | None:
    """The slice with whose start the next count leaves a column's window; None where nothing is counted."""
    leaving = [min(state.slices) + SLICES] if state.slices else []
    leaving += [(min(state.days) + DAYS) * DAY_SLICES] if state.days else []
    for in_days, length, places in columns:
        if length == (DAYS if in_days else SLICES):
            continue  # as long as the state: the lines above
        held, step = (state.days, DAY_SLICES) if in_days else (state.slices, 1)
        last = state.newest // step - length
        leaving += [
            (number + length) * step for number in held if number > last and any(held[number][at] for at in places)
        ]
    return min(leaving, default=None)


def row_counts(state: AggregateState, columns: Iterable[Column]) -> tuple[int, ...]:
    """The value of each column."""
    sums, found = state.sums, []
    for column in columns:
        window = (column.in_days, column.length)
        if window not in sums:
            held, last = (state.days, state.newest // DAY_SLICES) if column.in_days else (state.slices, state.newest)
            inside = [counts for number, counts in held.items() if number > last - column.length]
            sums[window] = [sum(one) for one in zip(*inside)] if inside else [0] * len(ACTIONS)
        found.append(sum(sums[window][place] for place in column.places))
    return tuple(found)


def window_end_ms(state: AggregateState) -> int:
    return (state.newest + 1) * SLICE_MS


def encode(state: AggregateState) -> bytes:
    parts = [
        _HEADER.pack(
            VERSION,
            _KNOWN if state.known else 0,
            len(state.slices),
            len(state.days),
            state.newest,
            state.timer,
            state.row_no,
        )
    ]
    for held in (state.slices, state.days):
        for number, counts in held.items():
            mask = sum(1 << place for place, count in enumerate(counts) if count)
            kept = [count for count in counts if count]
            parts.append(_ENTRY.pack(number, mask) + struct.pack(f"<{len(kept)}I", *kept))
    for name in (state.subcategory, state.category):
        raw = (name or "").encode()
        parts.append(bytes([len(raw)]) + raw)
    return b"".join(parts)


def decode(blob: bytes) -> AggregateState:
    """The inverse of `encode`, for every version still readable."""
    if blob[0] != VERSION:
        raise UnknownStateVersion(f"aggregate state has version {blob[0]}; this release reads version {VERSION}")
    state = AggregateState()
    _, flags, slices, days, state.newest, state.timer, state.row_no = _HEADER.unpack_from(blob)
    state.known = bool(flags & _KNOWN)
    at = _HEADER.size
    for held, entries in ((state.slices, slices), (state.days, days)):
        for _ in range(entries):
            number, mask = _ENTRY.unpack_from(blob, at)
            at += _ENTRY.size
            kept = struct.unpack_from(f"<{mask.bit_count()}I", blob, at)
            at += 4 * len(kept)
            values = iter(kept)
            held[number] = [next(values) if mask >> place & 1 else 0 for place in range(len(ACTIONS))]
    names = []
    for _ in range(2):
        end = at + 1 + blob[at]
        names.append(blob[at + 1 : end].decode() or None)
        at = end
    state.subcategory, state.category = names
    if at != len(blob):
        raise ValueError(f"aggregate state is damaged: it has {len(blob)} bytes, its parts {at}")
    return state


def _add(held: dict[_Key, list[int]], number: _Key, counts: Sequence[int]) -> None:
    before = held.get(number)
    if before is not None:
        held[number] = [old + new for old, new in zip(before, counts)]
    elif any(counts):
        held[number] = list(counts)


def _drop(held: dict[int, list[int]], last: int) -> None:
    for number in [number for number in held if number <= last]:
        del held[number]
