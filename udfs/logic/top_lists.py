"""Counting names under a key in bounded room, newer ones for more: the state of one top list. No Flink, no clock.

    {name: sessions} of a 5-minute slice ─ apply ─┐
    time passes                          ─ fade ──┴─ state ─ listed ─ the heaviest names, of what is certain

A session weighs 1 and half of it a half-life later; weights are as of `newest`, the newest slice that came. A sum of faded
ones does not depend on the order in which they came: what is late weighs what it would have.

At most KEPT names are held. The lightest make room, and `floor` remembers the heaviest of them ever: a name that is not held
weighs no more than that. A name that comes in is given the floor on top, as `unsure`. So for every name held

    weight - unsure  ≤  what was counted  ≤  weight          and unsure = 0 while no name had to go

but for the last _GONE of a name that was forgotten

(space saving with the error kept: Metwally, Agrawal, El Abbadi 2005; merged in batches as in Agarwal et al. 2012).

Encoded (version 1), little endian:

    version u8 │ names u16 │ newest u32 │ timer u32 │ list_no u64 │ floor f32 │ total f32 │ told u64 │ told_total f32 │ entries
    entry: weight f32 │ unsure f32 │ length u16 and UTF-8
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from typing import NamedTuple

from udfs.logic.item_aggregates import SLICE_MS, UnknownStateVersion

VERSION = 1

_DAY_MS = 86_400_000
MIN_WEIGHT = 1.5  # to be listed: one session is no pattern
_GONE = 0.05  # what weighs less is forgotten
_DIGITS = 4  # of a weight, when names are ordered: sums of the same ones differ in the last bits

_HEADER = struct.Struct("<BHIIQffQf")
_ENTRY = struct.Struct("<ffH")


class Limits(NamedTuple):
    """Of the lists of one kind: names held, names listed, and after how many ms a session weighs half."""

    kept: int
    listed: int
    half_life_ms: int


# A context has its day or its week in view, and room for a page of candidates; an item has few neighbours and many siblings.
LIMITS = {
    "item": Limits(64, 32, 7 * _DAY_MS),
    "device": Limits(256, 100, _DAY_MS),
    "geo": Limits(256, 100, _DAY_MS),
    "hour": Limits(256, 100, 7 * _DAY_MS),
    "all": Limits(256, 100, _DAY_MS),
}


class ListState:
    """Mutable. `held` maps a name to its weight and how much of that is unsure."""

    __slots__ = ("floor", "held", "list_no", "newest", "timer", "told", "told_total", "total")

    def __init__(self) -> None:
        self.held: dict[str, tuple[float, float]] = {}
        self.newest = 0
        self.timer = 0  # the slice whose start a timer waits for; 0 where none is set
        self.list_no = 0
        self.floor = 0.0
        self.total = 0.0
        self.told = 0  # what was listed when it was last told: a hash of the names, 0 for none
        self.told_total = 0.0

    def is_empty(self) -> bool:
        """Whether it may be forgotten."""
        return not self.held


def apply(state: ListState, limits: Limits, slice_no: int, counts: Mapping[str, int]) -> None:
    """Add a slice's sessions by name."""
    fade(state, limits, slice_no)
    worth = _left(state.newest - slice_no, limits)
    held, floor = state.held, state.floor
    for name, sessions in counts.items():
        weight, unsure = held.get(name, (floor, floor))
        held[name] = (weight + sessions * worth, unsure)
        state.total += sessions * worth
    if len(held) > limits.kept:
        order = sorted(held, key=lambda name: (-held[name][0], name))
        state.floor = max(floor, held[order[limits.kept]][0])
        for name in order[limits.kept :]:
            del held[name]


def fade(state: ListState, limits: Limits, slice_no: int) -> None:
    """Time has reached a slice: everything weighs less, and what weighs next to nothing is forgotten."""
    if slice_no <= state.newest:
        return
    left = _left(slice_no - state.newest, limits) if state.newest else 1.0
    state.newest = slice_no
    state.floor *= left
    state.total *= left
    state.held = {
        name: (weight * left, unsure * left) for name, (weight, unsure) in state.held.items() if weight * left >= _GONE
    }


def listed(state: ListState, limits: Limits) -> list[tuple[str, float]]:
    """The heaviest names and what is certain of their weights."""
    certain = [(weight - unsure, name) for name, (weight, unsure) in state.held.items()]
    found = sorted((-_rounded(weight), name) for weight, name in certain if weight >= MIN_WEIGHT)
    return [(name, -weight) for weight, name in found[: limits.listed]]


def to_tell(state: ListState, names: list[str]) -> bool:
    """Whether the list is news: other names, in another order, or under a total that has doubled or halved. Weights alone are
    none: they fade all the time, and all alike. Remembers what was told."""
    digest = _digest(names)
    same_total = state.told_total / 2 < state.total < state.told_total * 2
    if digest == state.told and (same_total or not names):
        return False
    state.told, state.told_total = digest, state.total
    return True


def next_fade(state: ListState, limits: Limits) -> int | None:
    """The slice in which the last name listed will have faded, or, where none is listed, the last one held; None for an empty
    state. Names before the last leave with the next sessions that come."""
    if not state.held:
        return None
    certain = max(weight - unsure for weight, unsure in state.held.values())
    until = (certain, MIN_WEIGHT) if certain >= MIN_WEIGHT else (max(one for one, _ in state.held.values()), _GONE)
    half_lives = math.log2(until[0] / until[1])
    return state.newest + int(half_lives * limits.half_life_ms / SLICE_MS) + 1


def window_end_ms(state: ListState) -> int:
    return (state.newest + 1) * SLICE_MS


def encode(state: ListState) -> bytes:
    parts = [
        _HEADER.pack(
            VERSION,
            len(state.held),
            state.newest,
            state.timer,
            state.list_no,
            state.floor,
            state.total,
            state.told,
            state.told_total,
        )
    ]
    for name, (weight, unsure) in state.held.items():
        raw = name.encode()
        parts += (_ENTRY.pack(weight, unsure, len(raw)), raw)
    return b"".join(parts)


def decode(blob: bytes) -> ListState:
    """The inverse of `encode`, but for the bits that an f32 does not have, for every version still readable."""
    if blob[0] != VERSION:
        raise UnknownStateVersion(f"a top list's state has version {blob[0]}; this release reads version {VERSION}")
    state = ListState()
    _, names, state.newest, state.timer, state.list_no, state.floor, state.total, state.told, state.told_total = (
        _HEADER.unpack_from(blob)
    )
    at = _HEADER.size
    for _ in range(names):
        weight, unsure, length = _ENTRY.unpack_from(blob, at)
        at += _ENTRY.size
        state.held[blob[at : at + length].decode()] = (weight, unsure)
        at += length
    if at != len(blob):
        raise ValueError(f"a top list's state is damaged: it has {len(blob)} bytes, its parts {at}")
    return state


def _left(slices: int, limits: Limits) -> float:
    """What is left of 1 after so many slices."""
    return float(0.5 ** (slices * SLICE_MS / limits.half_life_ms))


def _rounded(weight: float) -> float:
    return round(weight, _DIGITS - 1 - math.floor(math.log10(weight)))


def _digest(names: list[str]) -> int:
    return int.from_bytes(hashlib.sha256("\n".join(names).encode()).digest()[:8], "little") if names else 0
