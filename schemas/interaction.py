"""Interaction: a valid event, numbered, its identity resolved. What every other job reads instead of raw events."""

from __future__ import annotations

import msgspec

from schemas.event import Event

FLOOD = "flood"  # the note that flags it


class Interaction(msgspec.Struct, frozen=True, omit_defaults=True):
    """`event_no` counts the applied events of `key` without gaps: a reader can tell that nothing is missing."""

    key: str
    event_no: int
    state_epoch: int
    event: Event
    ts_ms: int  # event time as applied: a clock that ran ahead is clamped to append time + tolerance
    partition: int
    offset: int
    append_ms: int
    notes: list[
        str
    ] = []  # clamped, out_of_order, closed_session, flood; reroute, replay or alias where it was put back on its topic

    @property
    def flagged(self) -> bool:
        """Whether it was no person: then it belongs into no aggregate and no training row."""
        return FLOOD in self.notes


encode_interaction = msgspec.json.Encoder().encode
decode_interaction = msgspec.json.Decoder(Interaction).decode
