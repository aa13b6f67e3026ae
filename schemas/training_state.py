"""State of the training log, per user: a trail per item and an entry per list, each a versioned blob.

Ids, times, versions and probabilities only. No feature is kept here: those that were served travel on `rankings-log`.
Structs are arrays in msgpack: new fields go to the end, with a default. So state of an older release of this version is read,
and state of a newer one too, without what it added.
"""

from __future__ import annotations

import msgspec

from schemas.user_state import UnknownStateVersion

VERSION = 1


class Labels(msgspec.Struct, array_like=True):
    """What is known of an exposure. `closed` has bit i set when the window of KINDS[i] has closed."""

    delay_ms: dict[int, int] = {}  # index into KINDS -> ms after the exposure, of the first outcome
    dwell_ms: int = 0
    closed: int = 0


class Exposure(msgspec.Struct, array_like=True):
    """An impression of a list's item. `said` is what its last row said, `revision` how many rows it had."""

    event_id: str
    list_id: str
    shown_ms: int
    event_no: int
    position: int | None = None
    revision: int = 0
    said: Labels = msgspec.field(default_factory=Labels)
    reported: bool = False  # on training-unmatched, because its list is not known


class Outcome(msgspec.Struct, array_like=True):
    """`kind` is an index into KINDS. What it names, list or impression, is the only thing it can be an outcome of."""

    event_id: str
    kind: int
    ts_ms: int
    list_id: str | None = None
    impression_id: str | None = None
    dwell_ms: int = 0


class Trail(msgspec.Struct, array_like=True):
    """Everything about one user and one item that may still become part of a row."""

    exposures: list[Exposure] = []
    outcomes: list[Outcome] = []
    wake_ms: int = 0  # the earliest timer set for it; 0 where there is none


class ServedList(msgspec.Struct, array_like=True):
    """A ranked list without what a row does not need."""

    surface: str
    created_ms: int
    state_epoch: int
    list_no: int
    seen_event_no: int
    bundle: str
    ranker: str
    policy: str
    trigger: str
    items_offsets: dict[int, int]
    arms: dict[str, str]
    fallback: str | None
    cold_start: str | None
    item_ids: list[str]
    scores: list[float]
    sources: list[str]


class Chosen(msgspec.Struct, array_like=True):
    """How the places of a list were filled, from its decision record, best place first. None is an unknown propensity."""

    slots: list[str]
    propensities: list[float | None]
    item_features_offsets: dict[int, int]


class ListEntry(msgspec.Struct, array_like=True):
    """A list, once it has come, the items whose exposures asked for it, and its decision, once that has come."""

    served: ServedList | None = None
    shown: list[str] = []
    chosen: Chosen | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode_trail = msgspec.msgpack.Decoder(Trail).decode
_decode_list = msgspec.msgpack.Decoder(ListEntry).decode
_MARK = bytes([VERSION])


def encode(state: Trail | ListEntry) -> bytes:
    return _MARK + _encode(state)


def decode_trail(blob: bytes) -> Trail:
    return _decode_trail(_body(blob))


def decode_list_entry(blob: bytes) -> ListEntry:
    return _decode_list(_body(blob))


def _body(blob: bytes) -> memoryview:
    if blob[:1] != _MARK:
        raise UnknownStateVersion(f"state of the training log has version {blob[0]}; this release reads {VERSION}")
    return memoryview(blob)[1:]
