"""Interaction: a valid event, numbered, its identity resolved. What every other job reads instead of raw events."""

from __future__ import annotations

import msgspec

from schemas.event import Event

# Notes: what flags it, and what its user does not allow.
FLOOD, NO_PERSONALISATION, NO_TRAINING = "flood", "no_personalisation", "no_training"


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
    ] = []  # clamped, out_of_order, closed_session, the constants above; reroute, replay or alias where it was put back
    # The user's arms when it happened, by experiment: of its surface; without one, of all surfaces the user was on.
    arms: dict[str, str] = {}
    # Where the session chose the item for the first time: what it had chosen before, newest first (udfs.logic.together).
    beside: list[str] | None = None
    unit: str | None = None  # by which those were assigned, where it is not `key`

    @property
    def flagged(self) -> bool:
        """Whether it was no person: then it belongs into no aggregate and no training row."""
        return FLOOD in self.notes

    @property
    def may_train(self) -> bool:
        """Whether the user allows learning from it: training rows, experiments and beliefs leave out everything else."""
        said = self.event.props.consent
        return NO_TRAINING not in self.notes and (said is None or said.train)


encode_interaction = msgspec.json.Encoder().encode
decode_interaction = msgspec.json.Decoder(Interaction).decode
