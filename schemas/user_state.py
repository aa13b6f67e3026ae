"""User state: everything the stream remembers of one user, as one compact, versioned blob.

    ┌ fixed header (40 B) ┬ tail, msgpack ┬ counters ┬ session ┬ history ┬ hashes ┬ seen ┬ ids, NUL-separated ┐

Ids are kept once, in a dictionary of at most 256; everything else is fixed-width columns over it, so that reading is slicing:
no per-action object is built. A full user (250 distinct ids of 16 bytes, counters, 64 hashes, 512 B of seen items) fits
in 8 KB, a typical one (30 actions) in 1.1 KB: tests/unit/test_user_state.py holds both.

When the layout changes, a release first learns to read the new version and still writes the old one; the release after it
writes the new. So a rollback by one release always finds state that it can read.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from schemas.keys import id_hash

VERSION = 1

SESSION_CAP = 50
HISTORY_CAP = 200
IDS_CAP = 256
HASHES_MIN = 64
HASHES_MAX = 512
SEEN_CAP = 128
RECENT = 16
NOT_APPLIED_CAP = 4

# Type codes of sequence tokens: the low four bits of an action byte. Never renumber: they are in state and in bundles.
ACTIONS = {
    "click": 1,
    "view": 2,
    "add_to_cart": 3,
    "remove_from_cart": 4,
    "purchase": 5,
    "return": 6,
    "search": 7,
    "follow": 8,
    "like": 9,
    "hide": 10,
}
ACTION_NAMES = {code: name for name, code in ACTIONS.items()}
# Upper ends of dwell buckets 1-6 in ms; bucket 7 is longer, bucket 0 unknown. In the high bits of an action byte.
DWELL_BUCKETS_MS = (2_000, 5_000, 10_000, 30_000, 60_000, 180_000)
COUNTED = ("view", "click", "add_to_cart", "purchase")

# Sequence tokens that are no items are marked by a control character, which no validated id contains.
QUERY_MARK = "\x01"
TARGET_MARK = "\x02"

# The tail's length has 32 bits: candidates that callers handed in may fill more than 64 KB of it.
_HEADER = struct.Struct("<BBBHHBIIIIqq")
_NIBBLE = 15


def dwell_bucket(dwell_ms: int | None) -> int:
    """0 for unknown, else 1-7, by DWELL_BUCKETS_MS."""
    if dwell_ms is None:
        return 0
    return 1 + sum(dwell_ms >= edge for edge in DWELL_BUCKETS_MS)


def action_code(event_type: str, dwell_ms: int | None) -> int:
    return ACTIONS[event_type] | dwell_bucket(dwell_ms) << 4


def action_name(code: int) -> str:
    return ACTION_NAMES[code & 15]


class Sequence(NamedTuple):
    """Tokens in order of time, oldest first: parallel columns. Ids may carry QUERY_MARK or TARGET_MARK."""

    item_ids: list[str]
    actions: bytes
    ts_ms: array[int]  # "q"


class Surface(msgspec.Struct, array_like=True):
    """When the user was last on a surface, and when it was last ranked, both in ms."""

    seen_ms: int
    ranked_ms: int = 0


class Tail(msgspec.Struct, array_like=True):
    """What is small and irregular. New fields go at the end, with a default."""

    last_event_id: str | None = None
    last_event_ts_ms: int | None = None
    session_last_ms: int = 0  # newest event time of the open session, of any event type; 0 where none is open
    offsets: dict[int, int] = {}
    surfaces: dict[str, Surface] = {}
    sessions: dict[int, int] = {}  # hashes of the session ids known to be this user's -> last use, s
    merged: list[int] = []  # hashes of (anonymous key, epoch) merged so far
    not_applied: list[tuple[str, int, int, str | None]] = []  # reason, partition, offset, event hash
    hash_hours: list[tuple[int, int]] = []  # (hour of append, how many hashes), oldest first
    counter_overflow: dict[int, int] = {}  # slot * 4 + type -> count beyond a nibble
    alias: str | None = None  # of an anonymous key: the user it belongs to now
    alias_until_ms: int = 0
    anonymous_epoch: int = 0
    pending: list[str] = []  # surfaces whose ranking waits for the throttle's timer
    pending_trigger: str | None = None
    timer_ms: int = 0  # the throttle's timer, 0 where none is set
    emitted_ms: int = 0  # when something about this user last went to RankCandidates
    idle_timer_h: int = 0  # the clean-up timer, in hours since 1970; 0 where none is set
    candidates: dict[str, list[str]] = {}  # surface -> what its caller handed in; empty: too many to remember
    released_ms: int = 0  # of an anonymous key: time of the newest logout
    waiting_since_ms: int = 0  # append time of the oldest record whose ranking is pending; 0 where none is
    # By which key experiments assign, where it is not this one: the first-seen; a login keeps it. And when a session with
    # another unit was last merged in, whose lists may have had other arms; 0 for never.
    unit: tuple[str, int] | None = None
    # What an event last said of consent: its time in ms, personalise, train. None: no event ever said anything.
    consent: tuple[int, bool, bool] | None = None
    where: tuple[str | None, str | None, str | None] | None = None  # device, geo and channel, as last said


class UserState:
    """Mutable, one per event: decoded, changed by udfs.logic, encoded. Columns are documented in `_decode`."""

    __slots__ = (
        "event_no",
        "hashes",
        "history_actions",
        "history_no",
        "history_slots",
        "history_ts",
        "ids",
        "list_no",
        "nibbles",
        "seen",
        "session_actions",
        "session_slots",
        "session_start_ms",
        "session_ts",
        "tail",
        "updated_ms",
    )

    def __init__(self) -> None:
        self.event_no = 0  # applied events, without gaps
        self.list_no = 0  # handled records (events, requests, merges): orders the lists
        self.updated_ms = 0  # processing time of the last change
        self.session_start_ms = 0
        self.history_no = 0  # rises whenever the history changes: the key of cached encodings
        self.ids: list[bytes] = []
        self.nibbles = bytearray()  # two bytes a slot: view|click<<4, add_to_cart|purchase<<4
        self.session_slots = array("B")
        self.session_actions = bytearray()
        self.session_ts = array("i")  # ms after session_start_ms, may be negative
        self.history_slots = array("B")
        self.history_actions = bytearray()
        self.history_ts = array("I")  # s since 1970
        self.hashes = array("Q")  # of event ids, in order of arrival
        self.seen = array("I")  # 32-bit hashes of items shown, one per impression
        self.tail = Tail()

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def session(self) -> Sequence:
        ids, start = self.ids, self.session_start_ms
        return Sequence(
            [ids[slot].decode() for slot in self.session_slots],
            bytes(self.session_actions),
            array("q", [start + ts for ts in self.session_ts]),
        )

    def history(self) -> Sequence:
        ids = self.ids
        return Sequence(
            [ids[slot].decode() for slot in self.history_slots],
            bytes(self.history_actions),
            array("q", [ts * 1000 for ts in self.history_ts]),
        )

    @property
    def last_action_ms(self) -> int | None:
        """Event time of the newest action of the current session."""
        return self.session_start_ms + self.session_ts[-1] if self.session_ts else None

    def counts(self, item_id: str) -> tuple[int, int, int, int]:
        """How often this user viewed, clicked, put into the cart and bought the item (COUNTED)."""
        try:
            slot = self.ids.index(item_id.encode())
        except ValueError:
            return (0, 0, 0, 0)
        return self._slot_counts(slot)

    def counted(self) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
        """Every item with a counter above zero."""
        for slot, identifier in enumerate(self.ids):
            if self.nibbles[2 * slot] or self.nibbles[2 * slot + 1]:
                yield identifier.decode(), self._slot_counts(slot)

    def _slot_counts(self, slot: int) -> tuple[int, int, int, int]:
        low, high = self.nibbles[2 * slot], self.nibbles[2 * slot + 1]
        counts = (low & 15, low >> 4, high & 15, high >> 4)
        overflow = self.tail.counter_overflow
        if not overflow or _NIBBLE not in counts:
            return counts
        views, clicks, carts, buys = (n + overflow.get(4 * slot + kind, 0) for kind, n in enumerate(counts))
        return (views, clicks, carts, buys)

    def shown(self, item_id: str) -> int:
        """How often the item is among the last SEEN_CAP impressions."""
        return self.seen.count(seen_hash(item_id))

    # ── changing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def slot_of(self, identifier: str) -> int:
        """The id's place in the dictionary; a new id takes a free place, or the first that no sequence names."""
        raw = identifier.encode()
        try:
            return self.ids.index(raw)
        except ValueError:
            pass
        if len(self.ids) < IDS_CAP:
            self.ids.append(raw)
            self.nibbles += b"\0\0"
            return len(self.ids) - 1
        used = set(self.session_slots) | set(self.history_slots)
        slot = next(slot for slot in range(IDS_CAP) if slot not in used)
        self.ids[slot] = raw
        self.nibbles[2 * slot : 2 * slot + 2] = b"\0\0"
        for kind in range(4):
            self.tail.counter_overflow.pop(4 * slot + kind, None)
        return slot

    def count(self, slot: int, kind: int, times: int = 1) -> None:
        """Raise counter `kind` (index into COUNTED) of the slot."""
        place, shift = 2 * slot + kind // 2, 4 * (kind % 2)
        nibble = (self.nibbles[place] >> shift) & 15
        total = nibble + times
        kept = min(total, _NIBBLE)
        self.nibbles[place] = self.nibbles[place] & (0xF0 >> shift) | kept << shift
        if total > kept:
            overflow = self.tail.counter_overflow
            overflow[4 * slot + kind] = overflow.get(4 * slot + kind, 0) + total - kept

    def forget_actions(self) -> None:
        """Sequences, counters and what was shown. Numbers, remembered event ids and surfaces stay."""
        self.clear_sequences()
        self.history_no += 1
        self.seen = array("I")
        self.tail.where = None

    def clear_sequences(self) -> None:
        """Empty the dictionary and all that stands on it."""
        self.ids, self.nibbles, self.tail.counter_overflow = [], bytearray(), {}
        self.session_slots, self.session_actions, self.session_ts = array("B"), bytearray(), array("i")
        self.history_slots, self.history_actions, self.history_ts = array("B"), bytearray(), array("I")


def seen_hash(item_id: str) -> int:
    return id_hash(item_id) & 0xFFFFFFFF


_encode_tail = msgspec.msgpack.Encoder().encode
_decode_tail = msgspec.msgpack.Decoder(Tail).decode


def encode(state: UserState) -> bytes:
    tail = _encode_tail(state.tail)
    header = _HEADER.pack(
        VERSION,
        len(state.session_slots),
        len(state.history_slots),
        len(state.ids),
        len(state.hashes),
        len(state.seen),
        len(tail),
        state.event_no,
        state.list_no,
        state.history_no,
        state.updated_ms,
        state.session_start_ms,
    )
    return b"".join(
        (
            header,
            tail,
            state.nibbles,
            state.session_slots.tobytes(),
            state.session_actions,
            state.session_ts.tobytes(),
            state.history_slots.tobytes(),
            state.history_actions,
            state.history_ts.tobytes(),
            state.hashes.tobytes(),
            state.seen.tobytes(),
            b"\0".join(state.ids),
        )
    )


class UnknownStateVersion(ValueError):
    """State written by a release that this one cannot read: upgrade, or start from an older savepoint."""


def decode(blob: bytes) -> UserState:
    """The inverse of `encode`, for every version still readable."""
    if blob[0] != VERSION:
        raise UnknownStateVersion(f"user state has version {blob[0]}; this release reads version {VERSION}")
    state = UserState()
    (
        _,
        n_session,
        n_history,
        n_ids,
        n_hashes,
        n_seen,
        n_tail,
        state.event_no,
        state.list_no,
        state.history_no,
        state.updated_ms,
        state.session_start_ms,
    ) = _HEADER.unpack_from(blob)
    at = _HEADER.size

    def take(size: int) -> bytes:
        nonlocal at
        at += size
        return blob[at - size : at]

    state.tail = _decode_tail(take(n_tail))
    state.nibbles = bytearray(take(2 * n_ids))
    state.session_slots.frombytes(take(n_session))
    state.session_actions = bytearray(take(n_session))
    state.session_ts.frombytes(take(4 * n_session))
    state.history_slots.frombytes(take(n_history))
    state.history_actions = bytearray(take(n_history))
    state.history_ts.frombytes(take(4 * n_history))
    state.hashes.frombytes(take(8 * n_hashes))
    state.seen.frombytes(take(4 * n_seen))
    state.ids = blob[at:].split(b"\0") if n_ids else []
    if len(state.ids) != n_ids:
        raise ValueError(f"user state is damaged: it says {n_ids} ids and holds {len(state.ids)}")
    return state
