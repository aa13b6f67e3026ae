"""Coverage: has what a reader demands been applied yet? Pure; compares a demand with a freshness record."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import msgspec

from client.errors import InvalidArgument
from schemas.event import EventId
from schemas.keys import id_hash
from schemas.ranking import Freshness


class SeenEvent(NamedTuple):
    """The list must have seen this event. Remembered for the user's last 16 events: wait soon after sending."""

    event_id: str
    event_hash: str


class SeenPosition(NamedTuple):
    """The list must have seen what the user sent up to this place on the topic `events`: never forgotten."""

    partition: int
    offset: int


Demand = SeenEvent | SeenPosition


class Coverage(Enum):
    COVERED = "covered"
    NOT_YET = "not_yet"


def demand_of(at_least: str | tuple[int, int] | None) -> Demand | None:
    """Read a caller's `at_least`: an event id, or the (partition, offset) of its acknowledgement.

    Raises InvalidArgument where it is neither.
    """
    if at_least is None:
        return None
    if isinstance(at_least, str):
        try:
            event_id = msgspec.convert(at_least, EventId)
        except msgspec.ValidationError as error:
            raise InvalidArgument(f"at_least is no event id: {error}") from error
        return SeenEvent(event_id, f"{id_hash(event_id):016x}")
    if isinstance(at_least, tuple) and len(at_least) == 2 and all(type(n) is int and n >= 0 for n in at_least):
        return SeenPosition(*at_least)
    raise InvalidArgument(f"at_least must be an event id or (partition, offset), not {at_least!r}")


def judge(demand: Demand, freshness: Freshness) -> Coverage | str:
    """Covered, not yet, or the reason why the event will never be: `late`, `duplicate`, `moved` or a rejection's code.

    An event id that was applied counts as covered even where a copy of it was dropped later.
    """
    if isinstance(demand, SeenEvent):
        if demand.event_hash in freshness.recent or demand.event_id == freshness.last_event_id:
            return Coverage.COVERED
        for trace in reversed(freshness.not_applied):
            if trace.event == demand.event_hash:
                return trace.reason
        return Coverage.NOT_YET
    for trace in reversed(freshness.not_applied):
        if (trace.partition, trace.offset) == demand:
            return trace.reason
    if freshness.offsets.get(demand.partition, -1) >= demand.offset:
        return Coverage.COVERED
    return Coverage.NOT_YET
