"""Training rows: what was shown, exactly as it was served, and what came of it.

A row is one exposure: an impression of an item of a ranked list. It is written as soon as something is known of it, and again
as a further `revision` whenever more is; of one `row_id`, the highest revision counts.
"""

from __future__ import annotations

import hashlib

import msgspec

# What can come of an exposure. The order is that of the state's codes: append only.
KINDS = ("click", "dwell", "cart", "purchase", "return")


class Served(msgspec.Struct, frozen=True, omit_defaults=True):
    """The item's place in its list and what the list's receipt says. Nothing here is looked up after the list was made."""

    list_id: str
    created_ms: int
    state_epoch: int
    list_no: int
    seen_event_no: int  # the user's last event that the list had seen: sequences and counters are those after it
    rank: int  # place in the list, from 0
    score: float
    source: str
    bundle: str  # version of the model, and with it of the embeddings
    ranker: str
    policy: str
    trigger: str
    items_offsets: dict[int, int]  # version of the item features
    arms: dict[str, str]
    fallback: str | None = None
    cold_start: str | None = None
    slot: str | None = None  # what filled its place: exploit, or the name of an exploring slot; None until it is known
    propensity: float | None = None  # probability that the item stood there, given those above it; None where unknown
    item_features_offsets: dict[int, int] = {}  # version of the counters; their values are on `rankings-log`


class TrainingRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """One exposure at one revision. `position` is where the page says it was shown, `served.rank` where the list had it."""

    row_id: str
    revision: int  # from 1
    key: str
    event_id: str  # of the impression
    event_no: int
    item_id: str
    surface: str
    shown_ms: int
    served: Served
    position: int | None = None
    delay_ms: dict[
        str, int
    ] = {}  # kind -> ms from the exposure to its first outcome; absent where there is none so far
    dwell_ms: int = 0  # the longest dwell within the window
    closed: list[str] = []  # kinds whose window has closed

    def label(self, kind: str) -> bool | None:
        """True once the outcome is known, False when its window closed without one, None while it may still come."""
        if kind in self.delay_ms:
            return True
        return False if kind in self.closed else None


class Unmatched(msgspec.Struct, frozen=True, omit_defaults=True):
    """What could not be joined, on `training-unmatched`.

    `reason`: no_exposure, unknown_list, not_in_list, too_many; or unreadable, of a record at `place` that this release cannot read.
    """

    reason: str
    key: str
    event_id: str
    kind: str  # impression, one of KINDS, or of an unreadable record the topic
    item_id: str
    ts_ms: int
    list_id: str | None = None
    place: str | None = None  # partition:offset


def row_id(key: str, event_id: str) -> str:
    """128 bits of SHA-256 over key and impression: event ids are unique within a key only."""
    return hashlib.sha256(f"{key}\0{event_id}".encode()).hexdigest()[:32]


encode_row = msgspec.json.Encoder().encode
decode_row = msgspec.json.Decoder(TrainingRow).decode
encode_unmatched = msgspec.json.Encoder().encode
decode_unmatched = msgspec.json.Decoder(Unmatched).decode
