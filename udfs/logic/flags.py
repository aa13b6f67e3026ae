"""Flags: who acts as no person does. A flagged event is applied like any other; aggregates and training rows leave it out.

    flood   more than FLOOD_PER_MINUTE acts within one minute, and what comes in FLOOD_MINUTES, that one included
    bot     more than BOT_PER_DAY acts on one day (UTC), and the rest of that day

By the events' own times, as applied: a log that is played quickly is none. Impressions and scrolls are no acts: pages send them by
the dozen. Kept in `Tail.busy`: the last minute, acts in it, acts on its day, the minute in which a flood's flag ends.
"""

from __future__ import annotations

from schemas.event import Event
from schemas.interaction import BOT, FLOOD
from schemas.user_state import UserState

FLOOD_PER_MINUTE = 120
FLOOD_MINUTES = 10
BOT_PER_DAY = 5_000

_MINUTE_MS = 60_000
_DAY_MINUTES = 24 * 60
_NO_ACTS = ("impression", "scroll")


def flag(state: UserState, event: Event, ts_ms: int) -> list[str]:
    """Count an event that has been applied; the flags it gets."""
    minute, in_minute, on_day, until_minute = state.tail.busy or (0, 0, 0, 0)
    now = ts_ms // _MINUTE_MS
    if event.event_type not in _NO_ACTS:
        if now // _DAY_MINUTES > minute // _DAY_MINUTES:
            on_day = 0
        if now > minute:
            minute, in_minute = now, 0
        # What comes late counts with what came last: it is one user's pace all the same.
        in_minute, on_day = in_minute + 1, on_day + 1
        if in_minute > FLOOD_PER_MINUTE:
            until_minute = max(until_minute, now + FLOOD_MINUTES)
        state.tail.busy = (minute, in_minute, on_day, until_minute)
    found = [FLOOD] if now < until_minute else []
    return [*found, BOT] if on_day > BOT_PER_DAY and now // _DAY_MINUTES == minute // _DAY_MINUTES else found
